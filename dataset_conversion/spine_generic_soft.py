"""Soft labels for a Spine-Generic tree: those that lie in `derivatives`, or averages of the contrasts of a subject."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_spine_ext.check.opening import Opened
from nnunet_spine_ext.core.entities import parse_entities
from nnunet_spine_ext.core.errors import CaseError, Problem
from nnunet_spine_ext.core.io import strip_suffix
from nnunet_spine_ext.core.soft_labels import IGNORE
from nnunet_spine_ext.core.splits import shorten
from nnunet_spine_ext.core.volume import Array, Volume
from nnunet_spine_ext.dataset_conversion.building import Builder, Built, volume_of
from nnunet_spine_ext.dataset_conversion.discovery import Candidate, Source
from nnunet_spine_ext.dataset_conversion.masks import mask_on_image
from nnunet_spine_ext.dataset_conversion.spine_generic_cases import Found
from nnunet_spine_ext.dataset_conversion.spine_generic_names import SOFT_MASKS, STRUCTURES
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
    classes: of the dataset; a case gets a soft label if it has what each of them needs.

    Raises
    ------
    UsageError: no such folder.
    """
    if soft is None:
        return found
    if soft == AVERAGE:
        cases, reason = _averages(found.cases, classes), "no second contrast with a mask that no model made"
    else:
        files = {name: soft_files(root, soft, SOFT_MASKS[name]) for name in classes}
        cases = [_from_folder(case, files, root) for case in found.cases]
        of_each = "" if len(classes) == 1 else f" of {' and '.join(classes)} each"
        reason = f"no soft mask{of_each} in {soft}"
    hard = [case.case_id for case in cases if not _soft_sources(case)]
    notes = list(found.notes)
    if hard:
        notes.append(f"{len(hard)} of {len(cases)} case(s) have hard labels only ({reason}): {shorten(hard)}")
    return replace(found, cases=cases, notes=notes)


def _from_folder(case: Candidate, files: Mapping[str, Mapping[str, Path]], root: Path) -> Candidate:
    image = _image_name(case)
    if any(image not in there for there in files.values()):
        return case
    made = [Source(_role(name, ""), there[image], name_in(root, there[image])) for name, there in files.items()]
    return replace(case, extras=(*case.extras, *made))


def _averages(cases: Sequence[Candidate], classes: Sequence[str]) -> list[Candidate]:
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
            Source(_role(name, _image_name(other)), mask.path, mask.name)
            for other in others
            for name, mask in zip(classes, _masks(other, classes), strict=True)
        ]
        found.append(replace(case, extras=(*case.extras, *extras)))
    return found


def _hard_role(name: str, classes: Sequence[str]) -> str:
    """Return the role of a case's own mask of a class."""
    return "label" if name == classes[0] else f"label-{name}"


def _masks(case: Candidate, classes: Sequence[str]) -> list[Source]:
    """Return the masks of a case by class; each has all of them."""
    there = {source.role: source for source in case.sources}
    return [there[_hard_role(name, classes)] for name in classes]


def _role(name: str, image: str) -> str:
    """Return the role of a soft mask of a class, or of the mask of another image that a soft one is made of."""
    return "-".join(part for part in (_ROLE, name, image) if part)


def _visit(case: Candidate) -> tuple[str, str]:
    # Between two sessions a cord may have changed.
    return case.subject, str(parse_entities(_image_name(case)).values.get("ses", ""))


def _image_name(case: Candidate) -> str:
    return strip_suffix(case.images[0].path)


def _soft_sources(case: Candidate) -> list[Source]:
    return [source for source in case.extras if source.role.split("-")[0] == _ROLE]


@dataclass
class SoftBuilder:
    """Builds a case with `hard`, then adds its soft label, and makes the hard label what the soft one says.

    That is the class that takes the largest share of a voxel, of one class where it exceeds a half. Where the soft
    label is ignore, the hard one stays what was drawn.

    Parameters
    ----------
    hard: makes images and hard labels, numbered from 1 in the order of `classes`.
    soft: ``average``, or the name of a folder.
    classes: of the dataset. Each is averaged by itself, moved by its own centres: in a canal that keeps its place the
        cord need not.
    recipe: of averages.
    resample: whether masks on other grids are brought onto the image's.
    """

    hard: Callable[[Candidate, Mapping[str, Opened]], Built]
    soft: str
    classes: Sequence[str]
    recipe: Recipe = field(default_factory=Recipe)
    resample: str | None = None
    _last: dict[str, tuple[Any, SoftGroundTruth]] = field(default_factory=dict)

    def __call__(self, case: Candidate, opened: Mapping[str, Opened]) -> Built:
        """Build a case; raises CaseError as the builder of hard labels does, and when no soft label can be made."""
        built = self.hard(case, opened)
        if not _soft_sources(case) or built.label is None:
            return built
        image = built.images[0]
        masks: dict[str, Array] = {}
        facts: dict[str, dict[str, Any]] = {}
        for name in self.classes:
            if self.soft == AVERAGE:
                label, facts[name], said = self._average(name, case, opened, image)
            else:
                role = _role(name, "")
                label, facts[name], said = _stored(opened[role], _path(case, role), image)
            built.warnings += said
            if label is None:
                return built
            masks[name] = label.array
        shares, known = visible_shares(masks)
        hard = np.where(known, _winners(shares), built.label.array).astype(np.uint8)
        built.soft, built.label = [image.with_array(share) for share in shares], built.label.with_array(hard)
        several = {"method": facts[self.classes[0]]["method"], "classes": facts}
        built.info = {**built.info, "soft": facts[self.classes[0]] if len(facts) == 1 else several}
        return built

    def _average(
        self, name: str, case: Candidate, opened: Mapping[str, Opened], image: Volume
    ) -> tuple[Volume | None, dict[str, Any], list[Problem]]:
        own = _image_name(case)
        roles = self._roles(name, case)
        result = self._result(name, {image: _path(case, role) for image, role in roles.items()}, roles, opened)
        about = [problem for problem in result.warnings if own in problem.file.split(", ")]
        said = [replace(problem, file=str(_path(case, roles[own]))) for problem in about]
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
            "made_of": [mask for mask, other in result.contributors.items() if other.used],
            "left_out": {mask: other.why for mask, other in result.contributors.items() if not other.used},
            "dice": None if row.agreement is None else round(row.agreement.dice, 4),
            "shift_mm": [round(float(value), 3) for value in shift],
        }
        return label, facts, said

    def _roles(self, name: str, case: Candidate) -> dict[str, str]:
        """Return the role of a class's mask by image: of the case itself and of the other contrasts.

        Sorted: every contrast of the subject asks for the same average.
        """
        start = f"{_role(name, '')}-"
        others = {
            source.role.removeprefix(start): source.role for source in case.extras if source.role.startswith(start)
        }
        return dict(sorted({_image_name(case): _hard_role(name, self.classes), **others}.items()))

    def _result(
        self, name: str, files: Mapping[str, Path], roles: Mapping[str, str], opened: Mapping[str, Opened]
    ) -> SoftGroundTruth:
        """Return the average of a subject; the last one is kept, because its other contrasts come next."""
        key = tuple((image, opened[role].sha256) for image, role in roles.items())
        if name not in self._last or self._last[name][0] != key:
            masks = {}
            for image, role in roles.items():
                volume = volume_of(opened[role])
                array, _ = mask_values(volume.array, file=files[image])
                masks[image] = volume.with_array(array)
            self._last[name] = (key, soft_ground_truth(masks, self.recipe))
        return self._last[name][1]


def visible_shares(masks: Mapping[str, Array]) -> tuple[list[Array], Array]:
    """Return each class's own share of every voxel, and which voxels are known.

    Masks of structures contain one another: the canal's holds the cord. As with hard masks, what lies inside is taken
    out of what is around it, and structures that exclude each other get no more than one voxel together.

    Parameters
    ----------
    masks: by class (names of `STRUCTURES`) float32 of one shape, 0 to 1, -1 = not known.

    Returns
    -------
    A float32 array per class, 0 to 1, together at most 1, -1 where any class is not known; bool of the same shape.
    """
    known = np.logical_and.reduce([mask >= 0 for mask in masks.values()])
    shares: dict[str, Array] = {}
    for name in sorted(masks, key=list(STRUCTURES).index, reverse=True):
        inner = sum((share for other, share in shares.items() if name in STRUCTURES[other].inside), np.float32(0))
        free = 1 - sum(shares.values(), np.float32(0))
        shares[name] = np.clip(masks[name] - inner, 0, np.maximum(free, 0)).astype(np.float32)
    return [np.where(known, shares[name], np.float32(IGNORE)) for name in masks], known


def _winners(shares: Sequence[Array]) -> Array:
    """Return the number, from 1, of the class with the largest share; 0 where what they leave is as large."""
    stacked = np.stack(shares)
    return np.where(stacked.max(axis=0) > 1 - stacked.sum(axis=0), stacked.argmax(axis=0) + 1, 0)


def _path(case: Candidate, role: str) -> Path:
    return next(source.path for source in case.sources if source.role == role)


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


def soft_builder(hard: Builder, soft: str | None, classes: Sequence[str], *, resample: str | None) -> Builder:
    """Return the builder with soft labels, or the one without where none are asked for."""
    return hard if soft is None else SoftBuilder(hard, soft, classes, resample=resample)
