"""From a raw dataset to cached patches of vertebrae whose levels are known."""

from __future__ import annotations

import hashlib
import io
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_spine_ext.core.cases import check_same_grid
from nnunet_spine_ext.core.config import to_dict
from nnunet_spine_ext.core.dataset import CASES_FILE
from nnunet_spine_ext.core.errors import CaseError, NoInputError, Problem
from nnunet_spine_ext.core.io import read_json, read_volume, write_bytes, write_json
from nnunet_spine_ext.core.labels import VERTEBRAE, apply_table
from nnunet_spine_ext.core.splits import shorten
from nnunet_spine_ext.core.volume import Array, Volume
from nnunet_spine_ext.instances.training.dataset import LABELS, TrainingCase, TrainingData, open_dataset
from nnunet_spine_ext.numbering.crops import Crops, CropSpec, cut_crops, vertebrae_of
from nnunet_spine_ext.numbering.targets import targets_of

logger = logging.getLogger(__name__)
IMAGES = "imagesTr"
# Grows when patches are cut in another way.
_CACHE_VERSION = 2
_SACRUM = 26
# The first lumbar id: whoever stands on a sacrum is lumbar.
_LUMBAR_IDS = range(20, 26)
# No cervical vertebra is so large (cm³; C2, the largest, has about 15), nearly every lumbar one is.
_LARGE_CM3 = 28.0
_CERVICAL_IDS = range(1, 8)


@dataclass(frozen=True)
class NumberedData:
    """A raw dataset with images, semantic masks and numbered instances.

    Parameters
    ----------
    data: its masks and cases.
    channel: file ending of the image that is looked at, for example ``_0000.nii.gz``.
    contrasts: what `cases.json` says, by case; unknown ones are left out.
    """

    data: TrainingData
    channel: str
    contrasts: Mapping[str, str]

    def image(self, case: TrainingCase) -> Path:
        """Return the image of a case."""
        return self.data.folder / IMAGES / f"{case.name}{self.channel}"


@dataclass(frozen=True, eq=False)
class CachedCase:
    """One case whose patches lie in the cache.

    Parameters
    ----------
    names: levels of its vertebrae, head to tail.
    targets: answers (n,) to every question.
    sacrum: whether the sacrum follows.
    content: hash of the patches.
    file: the patches: (n, 3, P, I, R), the image in half precision, masks as shares of 255.
    """

    case: str
    subject: str
    names: tuple[str, ...]
    targets: Mapping[str, Array]
    sacrum: bool
    content: str
    file: Path

    def patch(self, row: int) -> Array:
        """Return one patch, (3, P, I, R) float32, not normalized."""
        # Opened anew each time: a mapped file holds a file handle, and there are thousands of cases.
        stored = np.load(self.file, mmap_mode="r")[row]
        return np.stack([stored["image"].astype(np.float32), *(stored["masks"].astype(np.float32) / 255.0)])

    def patches(self) -> Array:
        """Return all patches, (n, 3, P, I, R) float32, not normalized."""
        return np.stack([self.patch(row) for row in range(len(self.names))])


def open_numbered(folder: Path, inputs: str) -> NumberedData:
    """List the cases of a raw dataset; nothing is opened.

    Raises
    ------
    NoInputError: no instance masks, no images.
    UsageError: classes that stand for nothing in a spine.
    CaseError: a dataset.json or cases.json that cannot be read.
    """
    data = open_dataset(folder, "body")
    ending = str(read_json(folder / "dataset.json").get("file_ending", ".nii.gz"))
    numbered = NumberedData(data, f"_0000{ending}", _contrasts(folder))
    if inputs == "masks":
        return numbered
    absent = [name for name, case in data.cases.items() if not numbered.image(case).is_file()]
    if len(absent) == len(data.cases):
        raise NoInputError(
            "E-TRAIN-IMAGES",
            file=folder / IMAGES,
            found="no images of cases with instance masks",
            expected=f"one image {IMAGES}/<case>{numbered.channel} per mask",
            fix="copy the images, or train on masks alone: --set crop.inputs=masks",
        )
    for name in absent:
        logger.warning("%s has no image: left out", name)
    kept = {name: case for name, case in data.cases.items() if name not in absent}
    return replace(numbered, data=replace(data, cases=kept))


def spec_for(data: NumberedData, spec: CropSpec) -> CropSpec:
    """Return the patches that fit a dataset: where masks are of whole vertebrae, centres are theirs."""
    return spec if data.data.substructures or spec.centre == "vertebra" else replace(spec, centre="vertebra")


def cache_cases(
    data: NumberedData, spec: CropSpec, folder: Path, widen: float
) -> tuple[dict[str, CachedCase], dict[str, Problem]]:
    """Cut the patches of all cases into a folder and return them, and the cases that could not be used.

    Patches of files that are unchanged are kept.

    Raises
    ------
    NoInputError: no case is usable.
    CaseError: the instances are positions, not levels.
    """
    from tqdm import tqdm

    cases: dict[str, CachedCase] = {}
    failed: dict[str, Problem] = {}
    for case in tqdm(list(data.data.cases.values()), desc="patches", unit="case", disable=None):
        try:
            cases[case.name] = _cached(data, case, spec.widened(widen), folder)
        except CaseError as error:
            if error.code == "E-NUM-POSITIONS":
                raise
            failed[case.name] = error.problem()
            logger.warning("%s is left out: %s", case.name, error)
    if not cases:
        raise NoInputError(
            "E-TRAIN-USABLE",
            file=data.data.folder,
            found=f"no usable case; {next(iter(failed.values())).found}",
            expected="cases with an image, a mask and numbered instances",
            fix="correct the files that the warnings name",
        )
    return cases, failed


def _cached(data: NumberedData, case: TrainingCase, spec: CropSpec, folder: Path) -> CachedCase:
    sources = [case.instances, case.semantic] + ([] if spec.inputs == "masks" else [data.image(case)])
    stamp = {"version": _CACHE_VERSION, "crop": to_dict(spec), "files": [_stamp(path) for path in sources]}
    facts, file = folder / f"{case.name}.json", folder / f"{case.name}.npy"
    known = read_json(facts) if facts.is_file() and file.is_file() else {}
    if known.get("stamp") != stamp:
        crops = _cut(data, case, spec)
        names = _names(crops, case)
        packed = _packed(crops.data)
        write_bytes(file, packed)
        known = {"stamp": stamp, "names": names, "whole": crops.whole.tolist(), "sacrum": crops.sacrum}
        # Of the patches, not of the files: a dataset that was only copied is still the same.
        known["content"] = hashlib.sha256(packed).hexdigest()[:16]
        write_json(facts, known)
    levels: tuple[str, ...] = tuple(known["names"])
    targets = targets_of(levels, known["whole"], sacrum=known["sacrum"])
    return CachedCase(case.name, case.subject, levels, targets, bool(known["sacrum"]), str(known["content"]), file)


def _cut(data: NumberedData, case: TrainingCase, spec: CropSpec) -> Crops:
    instances = read_volume(case.instances)
    semantic = read_volume(case.semantic)
    semantic = semantic.with_array(apply_table(semantic.array, data.data.table, file=case.semantic))
    image = None if spec.inputs == "masks" else read_volume(data.image(case))
    if image is None:
        _check_grid(semantic, f"the semantic mask {LABELS}/{case.semantic.name}", instances, case.instances)
    else:
        name = f"the image {IMAGES}/{data.image(case).name}"
        _check_grid(image, name, semantic, case.semantic)
        _check_grid(image, name, instances, case.instances)
    crops = cut_crops(image, instances, semantic, "nnunet14", spec, file=case.name)
    refuse_positions(instances, case.instances)
    return crops


def _check_grid(reference: Volume, name: str, mask: Volume, file: Path) -> None:
    check_same_grid(reference, mask, file=str(file), what=f"the mask in {file.parent.name}", reference=name)


def refuse_positions(instances: Volume, file: Path | str) -> None:
    """Raise CaseError when the ids of an instance mask cannot be levels: they only count from the top.

    A cervical or thoracic vertebra that stands on the sacrum, or is as large as a lumbar one, says so.
    """
    ids = vertebrae_of(instances)
    if not ids:
        return
    sizes = {k: float((instances.array == k).sum()) * instances.voxel_volume / 1000 for k in ids if k in _CERVICAL_IDS}
    lowest, has_sacrum = ids[-1], bool((instances.array == _SACRUM).any())
    found = None
    if has_sacrum and lowest not in _LUMBAR_IDS and _next_to_sacrum(instances, lowest):
        found = f"{VERTEBRAE[lowest]} (id {lowest}) on the sacrum"
    elif sizes and float(np.median(list(sizes.values()))) > _LARGE_CM3:
        largest = max(sizes, key=lambda k: sizes[k])
        found = f"a {VERTEBRAE[largest]} (id {largest}) of {sizes[largest]:.0f} cm³"
    if found:
        raise CaseError(
            "E-NUM-POSITIONS",
            file=file,
            found=f"{found}: instances that are counted from the top, not numbered",
            expected="ids of levels: C1 is 1, T1 8, L1 20, S1 26",
            fix="number the masks (nnUNetv2_spine_labels shows the ids), or separate and number them first",
        )


def _next_to_sacrum(instances: Volume, lowest: int) -> bool:
    """Whether nothing as high as a vertebra fits between the lowest vertebra and the sacrum."""
    array = instances.to("RAS")
    heights = []
    for k in (lowest, _SACRUM):
        used = np.flatnonzero((array.array == k).any(axis=(0, 1)))
        heights.append((int(used[0]), int(used[-1])))
    gap = (heights[0][0] - heights[1][1]) * array.spacing[2]
    return gap < 20.0


def _names(crops: Crops, case: TrainingCase) -> list[str]:
    if not len(crops):
        raise CaseError(
            "E-NUM-EMPTY",
            file=case.instances,
            found="no vertebra",
            expected="ids of levels: C1 is 1, T1 8, L1 20",
            fix="check the instance mask",
        )
    return [VERTEBRAE[int(k)] for k in crops.ids]


def _packed(data: Array) -> bytes:
    """Return patches as the bytes of a .npy file with one record per vertebra."""
    shape = data.shape[2:]
    stored = np.zeros(len(data), dtype=[("image", np.float16, shape), ("masks", np.uint8, (2, *shape))])
    stored["image"] = np.clip(data[:, 0], -6e4, 6e4)
    # A picture's value that half precision rounds to 0 would count as no picture.
    tiny = (stored["image"] == 0) & (data[:, 0] != 0)
    stored["image"][tiny] = np.float16(6e-8)
    stored["masks"] = np.round(255 * np.clip(data[:, 1:], 0, 1))
    buffer = io.BytesIO()
    np.save(buffer, stored, allow_pickle=False)
    return buffer.getvalue()


def _stamp(path: Path) -> list[Any]:
    status = path.stat()
    return [path.name, status.st_size, status.st_mtime_ns]


def _contrasts(folder: Path) -> dict[str, str]:
    path = folder / CASES_FILE
    rows = read_json(path)["cases"] if path.is_file() else {}
    return {case: str(row["contrast"]) for case, row in rows.items() if row.get("contrast")}


def contrast_warnings(
    contrasts: Mapping[str, str], train: Sequence[str], validation: Sequence[str], earlier: Sequence[str]
) -> Iterator[str]:
    """Yield in words where the contrasts of training, validation and earlier folds of a model differ."""
    known = {contrasts[case] for case in train if case in contrasts}
    new = sorted({contrasts[case] for case in validation if case in contrasts} - known)
    if known and new:
        yield f"validation has images of {shorten(new)}, the training only of {shorten(sorted(known))}"
    others = sorted(set(earlier) ^ known) if earlier and known else []
    if others:
        yield f"{shorten(others)}: not in the images of all folds of this model"
