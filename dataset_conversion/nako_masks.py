"""One scan of a NAKO-like tree: its image and its masks of SPINEPS become image, 14 classes and instances."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from nnunet_spine_ext.check.opening import Opened
from nnunet_spine_ext.core.errors import Problem
from nnunet_spine_ext.core.labels import apply_table, mapping, scheme, swap_sides
from nnunet_spine_ext.core.volume import Volume
from nnunet_spine_ext.dataset_conversion.building import Built, volume_of
from nnunet_spine_ext.dataset_conversion.discovery import Candidate
from nnunet_spine_ext.dataset_conversion.masks import mask_on_image
from nnunet_spine_ext.dataset_conversion.nako_tree import CHUNKS
from nnunet_spine_ext.dataset_conversion.stitch import Part, stitch
from nnunet_spine_ext.harmonize.bias_field import N4Settings, correct_bias
from nnunet_spine_ext.measure.cord_canal import Verdict, judged

CordCanal = Literal["auto", "stored", "exchanged"]
CORD_CANAL: tuple[CordCanal, ...] = ("auto", "stored", "exchanged")
_CORD, _CANAL = 11, 12


@dataclass(frozen=True)
class CaseBuilder:
    """Builds the cases of one conversion.

    Parameters
    ----------
    cord_canal: which codes cord (60) and canal (61) have: told from their shapes, as stored, or exchanged in all masks.
    drop: ids of semantic masks that become background.
    n4: divide the bias field of every image (of every chunk) out.
    resample: see `mask_on_image`.
    ignore: the ignore label; None if there is none.
    """

    cord_canal: CordCanal = "auto"
    drop: tuple[int, ...] = ()
    n4: N4Settings | None = None
    resample: str | None = None
    ignore: int | None = None

    def __call__(self, case: Candidate, opened: Mapping[str, Opened]) -> Built:
        """Return the volumes of one case; raises CaseError to leave it out."""
        files = {source.role: source.path for source in case.sources}
        warnings: list[Problem] = []
        parts = []
        for source in case.images:
            part, said = self._part(source.role, files, opened)
            parts.append(part)
            warnings += said
        facts: dict[str, Any] = {} if self.n4 is None else {"n4": self.n4.to_dict()}
        if not case.images[0].role.startswith("chunk"):
            return Built([parts[0].image], parts[0].label, parts[0].instances, facts, warnings)
        ignore = self.ignore if any(part.label is None for part in parts) else None
        built = stitch(parts, file=case.case_id, ignore=ignore)
        missing = [name for name in CHUNKS if name not in {part.name for part in parts}]
        if missing and len(missing) < len(CHUNKS):
            found, fix = f"no chunk {', '.join(missing)}", "the others were joined"
            warnings.append(Problem("warning", "W-STITCH-MISSING", case.case_id, found, ", ".join(CHUNKS), fix))
        return Built(built.images, built.label, built.instances, facts | built.info, [*warnings, *built.warnings])

    def _part(self, role: str, files: Mapping[str, Path], opened: Mapping[str, Opened]) -> tuple[Part, list[Problem]]:
        """Return the image of a role with the masks of the same chunk, on its grid."""
        chunk = role.partition("-")[2] if role.startswith("chunk") else ""
        image = volume_of(opened[role])
        masks: dict[str, Volume] = {}
        warnings: list[Problem] = []
        for kind in ("label", "instances"):
            name = f"{kind}-{chunk}" if chunk else kind
            if name in opened:
                placed, said = mask_on_image(volume_of(opened[name]), image, file=files[name], resample=self.resample)
                masks[kind], more = (self._classes if kind == "label" else _numbers)(placed, files[name])
                warnings += [*said, *more]
        if self.n4 is not None:
            image = correct_bias(image, self.n4)
        return Part(chunk, image, masks.get("label"), masks.get("instances")), warnings

    def _classes(self, mask: Volume, file: Path) -> tuple[Volume, list[Problem]]:
        """Translate the ids of SPINEPS; raises CaseError listing ids that are none."""
        table = {**mapping("spineps", "nnunet14").table, **dict.fromkeys(self.drop, 0)}
        classes = mask.with_array(apply_table(mask.array, table, file=file))
        verdict: CordCanal | Verdict = self.cord_canal
        warnings: list[Problem] = []
        if self.cord_canal == "auto":
            kept = "the codes were kept; --cord-canal says what they are"
            done = {"exchanged": "they were put right", "unclear": kept}
            verdict, warnings = judged(classes, _CORD, _CANAL, file=file, **done)
        if verdict == "exchanged":
            classes = classes.with_array(swap_sides(classes.array, ((_CORD, _CANAL),)))
        return classes, warnings


def _numbers(mask: Volume, file: Path) -> tuple[Volume, list[Problem]]:
    """Return instance ids; raises CaseError listing ids that are none."""
    known = {number: number for number in scheme("instances").labels}
    return mask.with_array(apply_table(mask.array, known, file=file).astype(np.uint16)), []
