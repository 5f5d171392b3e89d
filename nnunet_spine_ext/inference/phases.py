"""What happens to a semantic mask after the network: shared by our commands and by stock `nnUNetv2_predict`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nnunet_spine_ext.core.errors import CaseError, Problem
from nnunet_spine_ext.core.io import read_volume, write_bytes, write_json, write_volume
from nnunet_spine_ext.core.labels import SCHEMES, apply_table, mapping, vertebra_name
from nnunet_spine_ext.core.volume import Volume
from nnunet_spine_ext.inference.bids import bids_files
from nnunet_spine_ext.inference.phase_options import PhaseOptions

if TYPE_CHECKING:
    from nnunet_spine_ext.instances.cutout_network import CutoutPredictor
    from nnunet_spine_ext.numbering.classifier import Classifier

# What the planes of a picture follow: sacrum, bodies, discs.
_FOLLOWED = (1, 10, 14)
_SACRUM = 26
_VERTEBRAE = 100


def instance_files(folder: Path, case: str) -> list[Path]:
    """Return where the instance step writes the files of a case: ids, centres, measurements."""
    return [folder / "instances" / f"{case}.nii.gz", folder / "centroids" / f"{case}.json", qc_file(folder, case)]


def phase_files(folder: Path, case: str) -> list[Path]:
    """Return every file that a phase may write for a case."""
    return [*instance_files(folder, case), snapshot_file(folder, case), *bids_files(folder, case).all()]


def qc_file(folder: Path, case: str) -> Path:
    """Return where the facts and findings of the phases are written."""
    return qc_folder(folder) / f"{case}.json"


def qc_folder(folder: Path) -> Path:
    """Return where the facts and findings of all cases are."""
    return folder / "qc"


def snapshot_file(folder: Path, case: str) -> Path:
    """Return where the picture of a case is written."""
    return folder / "snapshots" / f"{case}.png"


@dataclass(frozen=True)
class CaseInput:
    """What belongs to a mask besides its voxels.

    Parameters
    ----------
    image: grey values on the grid of the mask, for a numbering model and the picture.
    levels: a mask of levels that somebody else made, in the options' scheme, on any grid.
    localizer: numbered instances of another scan of the same person, in scanner coordinates, on any grid.
    file: the file that messages name; `levels_file`, `localizer_file`: those about levels and the localizer.
    """

    file: str = ""
    image: Volume | None = None
    levels: Volume | None = None
    localizer: Volume | None = None
    levels_file: str = ""
    localizer_file: str = ""


class Phases:
    """The phases of a run, with the networks that they need; networks are loaded when they are first used.

    Parameters
    ----------
    options: completed and checked (`phase_options`).
    scheme: label scheme of the masks.
    device: where networks run: ``auto``, ``cpu``, ``cuda``, ….
    """

    def __init__(self, options: PhaseOptions, scheme: str, device: str = "cpu") -> None:
        self.options = options
        self.scheme = scheme
        self.device = device
        self._predictor: CutoutPredictor | None = None
        self._classifier: Classifier | None = None

    def load(self) -> None:
        """Load the networks now, so that a damaged model ends the run before its first case; raises SetupError."""
        if self.options.instance_model is not None and self._predictor is None:
            from nnunet_spine_ext.instances.model import load_instance_model

            running = self.options.network_settings(self.device)
            self._predictor = load_instance_model(self.options.instance_model, running)
        if self.options.numbering_model is not None and self._classifier is None:
            from nnunet_spine_ext.numbering.classifier import load_classifier

            self._classifier = load_classifier(self.options.numbering_model, device=self.device)

    def run(
        self, semantic: Volume, folder: Path, case: str, given: CaseInput | None = None
    ) -> tuple[Volume, list[Problem]]:
        """Do all phases for one mask and write what they give; the mask itself is left to the caller.

        The caller writes it last: under its name the case is complete.

        Returns
        -------
        The mask after clean-up (in its scheme, on its grid) and warnings about the case.

        Raises
        ------
        CaseError: ids that the scheme does not know, companions that do not fit. OSError: no room.
        """
        given = given or CaseInput()
        file = given.file or f"{case}.nii.gz"
        warnings: list[Problem] = []
        with _about(file):
            if self.options.instances:
                self.load()
                semantic, warnings = self._instances(semantic, folder, case, given)
            if self.options.bids:
                write_volume(self._as_spineps(semantic), bids_files(folder, case).spine)
        return semantic, [replace(problem, file=problem.file or file) for problem in warnings]

    def check(self, semantic: Volume, given: CaseInput) -> None:
        """Raise CaseError for ids that the schemes of a mask, and of a mask of levels, do not know; nothing is done."""
        from nnunet_spine_ext.instances.frame import make_frame
        from nnunet_spine_ext.numbering.masks import levels_of

        with _about(given.file):
            make_frame(semantic, self.scheme)
            if given.levels is not None:
                levels_of(given.levels, self.options.levels_scheme, given.levels, required=True)

    def _instances(self, semantic: Volume, folder: Path, case: str, given: CaseInput) -> tuple[Volume, list[Problem]]:
        from nnunet_spine_ext.instances.interface import separate

        result = separate(semantic, self.scheme, settings=self.options.instance_settings(), predictor=self._predictor)
        instances, qc, warnings = result.instances, dict(result.qc), list(result.warnings)
        if self.options.numbering:
            instances, qc, more = self._number(result.instances, result.semantic, qc, given)
            warnings += more
        self._write(instances, result.semantic, qc, folder, case, given)
        return result.semantic, warnings

    def _number(
        self, instances: Volume, semantic: Volume, qc: dict[str, Any], given: CaseInput
    ) -> tuple[Volume, dict[str, Any], list[Problem]]:
        from nnunet_spine_ext.numbering.interface import number

        scores = None
        if self._classifier is not None:
            scores = self._classifier.scores(given.image, instances, semantic, self.scheme)
        numbered = number(
            instances,
            semantic,
            self.scheme,
            settings=self.options.numbering_settings(),
            scores=scores,
            localizer=given.localizer,
            level_map=given.levels,
            level_scheme=self.options.levels_scheme,
        )
        facts = dict(numbered.qc)
        # What the instance step says of vertebrae goes by places from the top; `levels` tells which is which.
        qc |= {"numbered": facts.pop("numbered"), "levels": facts.pop("levels", {}), "numbering": facts}
        theirs = {"W-NUM-LOCALIZER": given.localizer_file, "W-NUM-LEVELS": given.levels_file}
        return numbered.instances, qc, [replace(w, file=theirs.get(w.code, w.file)) for w in numbered.warnings]

    def _write(
        self, instances: Volume, semantic: Volume, qc: dict[str, Any], folder: Path, case: str, given: CaseInput
    ) -> None:
        from nnunet_spine_ext.measure.centroids import centroids, write_poi

        classes = self._as_nnunet14(semantic)
        points = centroids(instances, classes)
        numbered = bool(qc.get("numbered"))
        ids, centres, measurements = instance_files(folder, case)
        named = bids_files(folder, case)
        picture = self._picture(instances, classes, points, given.image, numbered=numbered)
        for bids in (False, True) if self.options.bids else (False,):
            write_volume(instances, named.vert if bids else ids)
            write_poi(named.centroids if bids else centres, instances, points, info={"numbered": numbered})
            if picture is not None:
                write_bytes(named.snapshot if bids else snapshot_file(folder, case), picture)
        write_json(measurements, qc)

    def _picture(
        self,
        instances: Volume,
        classes: Volume,
        points: Mapping[int, tuple[float, float, float]],
        image: Volume | None,
        *,
        numbered: bool,
    ) -> bytes | None:
        if not self.options.snapshots:
            return None
        from nnunet_spine_ext.render.png import encode_png
        from nnunet_spine_ext.render.spine import spine_picture

        shown = [key for key in points if key < _VERTEBRAE]
        picture = spine_picture(
            image,
            instances,
            colours=SCHEMES["instances"].colours,
            bodies=classes.with_array(np.isin(classes.array, _FOLLOWED)),
            names={key: _short_name(key, numbered=numbered) for key in shown},
            points={key: _triple(instances.world(points[key])) for key in shown},
        )
        return encode_png(picture)

    def _as_nnunet14(self, semantic: Volume) -> Volume:
        from nnunet_spine_ext.instances.whole import TABLES, classes_of_whole

        if self.scheme == "nnunet14":
            return semantic
        if self.scheme in TABLES:
            return classes_of_whole(semantic, self.scheme)
        return semantic.with_array(apply_table(semantic.array, mapping(self.scheme, "nnunet14").table))

    def _as_spineps(self, semantic: Volume) -> Volume:
        """Classes with SPINEPS' ids, where the scheme has such classes; else as they are."""
        if self.scheme != "nnunet14":
            return semantic
        return semantic.with_array(apply_table(semantic.array, mapping("nnunet14", "spineps").table))


def image_for(options: PhaseOptions, file: Path, mask: Volume) -> Volume | None:
    """Read the image of a mask if a phase looks at it, and put it on the mask's grid, which was made from it."""
    if not (options.numbering_model or options.snapshots):
        return None
    array = read_volume(file).array
    # A header with two transforms was read with the one that the user believes.
    return mask.with_array(array) if array.shape == mask.shape else None


def _short_name(key: int, *, numbered: bool) -> str:
    """Return what is written on a vertebra: its level, or its place from the top (``v3``); the sacrum is ``S``."""
    if key == _SACRUM:
        return "S"
    return vertebra_name(key) if numbered or key > _SACRUM else f"v{key}"


def _triple(place: Any) -> tuple[float, float, float]:
    x, y, z = (float(v) for v in place)
    return x, y, z


@contextmanager
def _about(file: str) -> Iterator[None]:
    """Let errors about a mask in memory name its file."""
    try:
        yield
    except CaseError as error:
        if Path(error.file).is_file():
            raise
        raise CaseError(error.code, file=file, found=error.found, expected=error.expected, fix=error.fix) from error
