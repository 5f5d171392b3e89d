"""Soft labels for a Spine-Generic tree: those that lie in `derivatives`, or averages of the contrasts of a subject."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_spine_ext.check.opening import Opened
from nnunet_spine_ext.core.entities import parse_entities
from nnunet_spine_ext.core.errors import CaseError, Problem, UsageError
from nnunet_spine_ext.core.io import strip_suffix
from nnunet_spine_ext.core.soft_labels import IGNORE
from nnunet_spine_ext.core.splits import shorten
from nnunet_spine_ext.core.volume import Array, Volume
from nnunet_spine_ext.dataset_conversion.building import Builder, Built, volume_of
from nnunet_spine_ext.dataset_conversion.discovery import Candidate, Source
from nnunet_spine_ext.dataset_conversion.masks import mask_on_image
from nnunet_spine_ext.dataset_conversion.spine_generic_cases import Found
from nnunet_spine_ext.dataset_conversion.spine_generic_names import SOFT_MASKS
from nnunet_spine_ext.dataset_conversion.spine_generic_tree import name_in, soft_files
from nnunet_spine_ext.soft.ground_truth import Recipe, SoftGroundTruth, soft_ground_truth
from nnunet_spine_ext.soft.masks import mask_values

AVERAGE = "average"
_ROLE = "soft"


def with_soft(found: Found, soft: str | None, root: Path, classes: Sequence[str]) -> Found:
    """Return what was found with the files that soft labels are made of, and with what the report should say of them.

    Parameters
    ----------
    soft: ``average``, or a folder of soft masks below ``derivatives``; None changes nothing.
    classes: one, because each would have to be aligned by itself.

    Raises
    ------
    UsageError: several classes, no such folder.
    """
    if soft is None:
        return found
    if len(classes) != 1:
        raise UsageError(
            "E-PAIR-SOFT",
            file="--soft",
            found=f"{len(classes)} classes ({', '.join(classes)})",
            expected="one class",
            fix="name one with --classes",
        )
    files = {} if soft == AVERAGE else soft_files(root, soft, SOFT_MASKS[classes[0]])
    cases = _averages(found.cases) if soft == AVERAGE else [_from_folder(case, files, root) for case in found.cases]
    hard = [case.case_id for case in cases if not _soft_sources(case)]
    notes = list(found.notes)
    if hard:
        reason = "no second contrast with a mask that no model made" if soft == AVERAGE else f"no soft mask in {soft}"
        notes.append(f"{len(hard)} of {len(cases)} case(s) have hard labels only ({reason}): {shorten(hard)}")
    return replace(found, cases=cases, notes=notes)


def _from_folder(case: Candidate, files: Mapping[str, Path], root: Path) -> Candidate:
    path = files.get(_image_name(case))
    if path is None:
        return case
    return replace(case, extras=(*case.extras, Source(_ROLE, path, name_in(root, path))))


def _averages(cases: Sequence[Candidate]) -> list[Candidate]:
    """Give each case the masks of the other contrasts of its subject and session.

    Masks of models are left out: a model's opinion of six contrasts is not what six contrasts show.
    """
    groups: dict[tuple[str, str], list[Candidate]] = {}
    for case in cases:
        if not case.train_only:
            groups.setdefault(_visit(case), []).append(case)
    found = []
    for case in cases:
        others = [] if case.train_only else [other for other in groups[_visit(case)] if other is not case]
        extras = [
            Source(f"{_ROLE}-{_image_name(other)}", other.label.path, other.label.name)
            for other in others
            if other.label is not None
        ]
        found.append(replace(case, extras=(*case.extras, *extras)))
    return found


def _visit(case: Candidate) -> tuple[str, str]:
    # Between two sessions a cord may have changed.
    return case.subject, str(parse_entities(_image_name(case)).values.get("ses", ""))


def _image_name(case: Candidate) -> str:
    return strip_suffix(case.images[0].path)


def _soft_sources(case: Candidate) -> list[Source]:
    return [source for source in case.extras if source.role.split("-")[0] == _ROLE]


@dataclass
class SoftBuilder:
    """Builds a case with `hard`, then adds its soft label, and makes the hard label that label above a half.

    Where the soft label is ignore, the hard one stays what was drawn.

    Parameters
    ----------
    soft: ``average``, or the name of a folder.
    recipe: of averages.
    resample: whether masks on other grids are brought onto the image's.
    """

    hard: Callable[[Candidate, Mapping[str, Opened]], Built]
    soft: str
    recipe: Recipe = field(default_factory=Recipe)
    resample: str | None = None
    _last: tuple[Any, SoftGroundTruth] | None = None

    def __call__(self, case: Candidate, opened: Mapping[str, Opened]) -> Built:
        """Build a case; raises CaseError as the builder of hard labels does, and when no soft label can be made."""
        built = self.hard(case, opened)
        sources = _soft_sources(case)
        if not sources or built.label is None:
            return built
        image = built.images[0]
        if self.soft == AVERAGE:
            label, facts, said = self._average(case, opened, image)
        else:
            label, facts, said = _stored(opened[_ROLE], sources[0].path, image)
        built.warnings += said
        if label is None:
            return built
        valid = label.array >= 0
        hard = np.where(valid, label.array > 0.5, built.label.array > 0).astype(np.uint8)
        built.soft, built.label = [label], built.label.with_array(hard)
        built.info = {**built.info, "soft": facts}
        return built

    def _average(
        self, case: Candidate, opened: Mapping[str, Opened], image: Volume
    ) -> tuple[Volume | None, dict[str, Any], list[Problem]]:
        own = _image_name(case)
        result = self._result(case, opened, own)
        about = [problem for problem in result.warnings if own in problem.file.split(", ")]
        said = [replace(problem, file=str(_mask_path(case, own))) for problem in about]
        row = result.contributors[own]
        if not row.used:
            return None, {}, said
        label = result.soft[own].to(image.orientation)
        if label.same_grid(image):
            label = image.with_array(label.array)
        elif self.resample is not None:
            label = result.at(own, image)
        shift = np.zeros(2) if row.alignment is None else row.alignment.shift[row.alignment.common].mean(axis=0)
        facts = {
            "method": AVERAGE,
            "reference": result.reference,
            "made_of": [name for name, other in result.contributors.items() if other.used],
            "left_out": {name: other.why for name, other in result.contributors.items() if not other.used},
            "dice": None if row.agreement is None else round(row.agreement.dice, 4),
            "shift_mm": [round(float(value), 3) for value in shift],
        }
        return label, facts, said

    def _result(self, case: Candidate, opened: Mapping[str, Opened], own: str) -> SoftGroundTruth:
        """Return the average of a subject; the last one is kept, because its other contrasts come next."""
        roles = {own: "label"} | {source.role.partition("-")[2]: source.role for source in _soft_sources(case)}
        # Sorted: every contrast of the subject asks for the same average.
        names = sorted(roles)
        key = tuple((name, opened[roles[name]].sha256) for name in names)
        if self._last is None or self._last[0] != key:
            masks = {}
            for name in names:
                volume = volume_of(opened[roles[name]])
                array, _ = mask_values(volume.array, file=_mask_path(case, name))
                masks[name] = volume.with_array(array)
            self._last = (key, soft_ground_truth(masks, self.recipe))
        return self._last[1]


def _mask_path(case: Candidate, name: str) -> Path:
    """Return the mask of an image among the files of a case."""
    role = f"{_ROLE}-{name}"
    found = next((source.path for source in case.extras if source.role == role), None)
    if found is not None:
        return found
    return case.label.path if case.label is not None else Path(name)


def _stored(opened: Opened, file: Path, image: Volume) -> tuple[Volume, dict[str, Any], list[Problem]]:
    """Return a stored soft mask on the image's grid; slices without any of the structure are ignored."""
    volume = volume_of(opened)
    array, said = mask_values(np.where(volume.array == IGNORE, 0, volume.array), file=file)
    said = [problem for problem in said if problem.code != "W-SOFT-SOFT"]
    drawn = array.any(axis=_in_plane(volume))
    shape = [1, 1, 1]
    shape[_body_axis(volume)] = -1
    ignored = ~drawn.reshape(shape) | (volume.array == IGNORE)
    label: Array = np.where(ignored, np.float32(IGNORE), array).astype(np.float32)
    turned = volume.with_array(label).to(image.orientation)
    if not turned.same_grid(image):
        # The same words as for a hard mask on another grid; soft masks are never resampled to the nearest voxel.
        mask_on_image(turned.with_array((turned.array > 0).astype(np.uint8)), image, file=file)
        raise CaseError("E-GEOM-GRID", file=file, found="another grid", expected="the image's", fix="resample it")
    return image.with_array(turned.array), {"method": "stored", "slices_ignored": int((~drawn).sum())}, said


def _body_axis(volume: Volume) -> int:
    """Return the array axis that runs along the body."""
    return next(axis for axis, letter in enumerate(volume.orientation) if letter in "SI")


def _in_plane(volume: Volume) -> tuple[int, ...]:
    return tuple(axis for axis in range(3) if axis != _body_axis(volume))


def soft_builder(hard: Builder, soft: str | None, *, resample: str | None) -> Builder:
    """Return the builder with soft labels, or the one without where none are asked for."""
    return hard if soft is None else SoftBuilder(hard, soft, resample=resample)
