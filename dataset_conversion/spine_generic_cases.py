"""From the files of a Spine-Generic tree to cases: who was scanned how, who drew the mask, and what is missing."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nnunet_spine_ext.check.files import check_path, pointer
from nnunet_spine_ext.core.config import nearest
from nnunet_spine_ext.core.errors import Problem, UsageError
from nnunet_spine_ext.core.io import strip_suffix
from nnunet_spine_ext.core.splits import shorten
from nnunet_spine_ext.dataset_conversion.discovery import Candidate, Source, case_id_of
from nnunet_spine_ext.dataset_conversion.provenance import LabelSource, Provenance, provenance_of
from nnunet_spine_ext.dataset_conversion.sidecars import read_sidecar
from nnunet_spine_ext.dataset_conversion.spine_generic_names import STRUCTURES, contrast_of, wanted
from nnunet_spine_ext.dataset_conversion.spine_generic_tree import Tree, Wish, name_in, subject_of

# Files that stand in for content hold a line or three; longer ones are opened when their case is made, and not before.
_POINTER_BYTES = 400


@dataclass
class Found:
    """What becomes of a tree: cases, why others are none, facts about the whole."""

    cases: list[Candidate] = field(default_factory=list)
    unusable: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def find_cases(tree: Tree, wish: Wish, *, keep: Mapping[str, set[str] | None], test: Collection[str] = ()) -> Found:
    """Make the cases of a tree.

    Parameters
    ----------
    test: subjects to test on.
    keep: subjects to use, each with the names of its images to use; None stands for all of them.

    Raises
    ------
    UsageError: a contrast that no image and no mask has.
    """
    there = {
        name: contrast_of(name)
        for name in sorted({*tree.images, *tree.masks})
        if subject_of(name) in keep and _kept(name, keep[subject_of(name)])
    }
    _refuse_unknown_contrasts(wish.contrasts, {contrast_of(name) for name in (*tree.images, *tree.masks)})
    masked = {there[name] for name in tree.masks if name in there}
    found = Found()
    log = _Log()
    for name, contrast in there.items():
        if not (wanted(contrast, wish.contrasts) if wish.contrasts else contrast in masked):
            log.other[contrast] += 1
            continue
        case = _case(tree, wish, name, log, test=subject_of(name) in test)
        if isinstance(case, Candidate):
            found.cases.append(case)
        elif case is not None:
            found.unusable.append(case)
    found.notes = log.notes(tree, wish)
    return found


@dataclass
class _Log:
    """What is counted on the way and told once."""

    other: Counter[str] = field(default_factory=Counter)
    sources: Counter[LabelSource] = field(default_factory=Counter)
    untold: int = 0
    no_sidecar: int = 0
    series: int = 0
    unfetched: int = 0
    patterns: set[str] = field(default_factory=set)
    models: set[str] = field(default_factory=set)

    def count(self, made: Mapping[str, Provenance], *, has_facts: bool) -> None:
        """Count a usable case."""
        self.sources[_worst(made)] += 1
        self.untold += sum(by.source == "unknown" for by in made.values())
        self.models |= {by.said[-1] for by in made.values() if by.source == "model"}
        self.no_sidecar += not has_facts

    def notes(self, tree: Tree, wish: Wish) -> list[str]:
        """Return the counts in words."""
        notes = []
        if tree.participants is None:
            notes.append("there is no participants.tsv: site and scanner are taken from the images' JSON files alone")
        if self.no_sidecar:
            notes.append(f"{self.no_sidecar} image(s) without a readable JSON file: field strength, TR and TE are null")
        if self.other:
            listed = shorten([f"{contrast} ({count})" for contrast, count in sorted(self.other.items())])
            notes.append(f"contrasts left out: {listed}")
        if self.series:
            notes.append(f"{self.series} diffusion series (4-D) left aside: 3-D images of the same subjects were taken")
        if self.unfetched:
            command = f"in {tree.root}: git annex get {' '.join(sorted(self.patterns))}"
            notes.append(f"{self.unfetched} case(s) not fetched yet; all of them at once: {command}")
        if self.untold:
            notes.append(f"{self.untold} mask(s) do not say who made them (label_source: unknown)")
        if self.sources["model"]:
            use = "used like any other" if wish.allow_model_labels else "trained on, never validated or tested against"
            by = shorten(sorted(self.models), 3)
            notes.append(f"{self.sources['model']} case(s) with a mask made by a model ({by}): {use}")
        return notes


def _case(tree: Tree, wish: Wish, name: str, log: _Log, *, test: bool) -> Candidate | Problem | None:
    """Return the case of an image, why there is none, or None where nothing is worth a word."""
    images, masks = tree.images.get(name, []), tree.masks.get(name, {})
    if len(images) != 1:
        return _no_image(tree, name, masks) if not images else _two_images(images)
    image = images[0]
    missing = [structure for structure in wish.classes if structure not in masks]
    if _is_series(image):
        if missing and _has_other_diffusion(tree, name, wish):
            log.series += 1
            return None
        return _series(image)
    unfetched = {path: problem for path in (image, *masks.values()) if (problem := _pointer(path)) is not None}
    if unfetched:
        log.unfetched += 1
        log.patterns |= {name_in(tree.root, path).replace(subject_of(name), "sub-*") for path in unfetched}
        return _fetch(tree.root, unfetched)
    if missing:
        return _no_mask(tree, wish, name, image, missing[0])
    made = {structure: provenance_of(masks[structure]) for structure in wish.classes}
    trusted = wish.allow_model_labels or _worst(made) != "model"
    if test and not trusted:
        return _circular(masks, made)
    facts = read_sidecar(image)
    log.count(made, has_facts=bool(facts))
    label, *extras = (
        Source("label" if k == 0 else f"label-{structure}", masks[structure], name_in(tree.root, masks[structure]))
        for k, structure in enumerate(wish.classes)
    )
    return Candidate(
        case_id=case_id_of([name]),
        subject=subject_of(name),
        images=(Source("image_0000", image, name_in(tree.root, image)),),
        label=label,
        info=_info(tree, name, facts, made) | {"contrast": contrast_of(name)},
        test=test,
        train_only=not trusted,
        extras=tuple(extras),
    )


def _info(tree: Tree, name: str, facts: Mapping[str, Any], made: Mapping[str, Provenance]) -> dict[str, Any]:
    """Facts for cases.json: the table first, the image's JSON file second, null for what neither says."""
    table = (tree.participants or {}).get(subject_of(name), {})
    said = {structure: list(by.said) for structure, by in made.items()}
    return {"pathology": None, **facts, **table, "label_source": _worst(made), "label_made_by": said}


def _worst(made: Mapping[str, Provenance]) -> LabelSource:
    """A case is a model's as soon as one of its masks is, and manual if all are."""
    sources = {by.source for by in made.values()}
    return "model" if "model" in sources else "unknown" if "unknown" in sources else "manual"


def _has_other_diffusion(tree: Tree, name: str, wish: Wish) -> bool:
    others = [other for other in tree.images if subject_of(other) == subject_of(name) and other != name]
    return any(other.endswith("_dwi") and wanted(contrast_of(other), wish.contrasts) for other in others)


def _is_series(image: Path) -> bool:
    """Whether a diffusion image has the gradient table that only a series has."""
    stem = strip_suffix(image)
    return any((image.parent / f"{stem}{suffix}").exists() for suffix in (".bval", ".bvec"))


def _pointer(path: Path) -> Problem | None:
    """Return the finding for a file whose content was not fetched; images and masks are not opened."""
    problem = check_path(path)
    if problem is not None:
        return problem if problem.code == "E-IN-POINTER" else None
    if path.stat().st_size > _POINTER_BYTES:
        return None
    return pointer(path, path.read_bytes())


def _fetch(root: Path, unfetched: Mapping[Path, Problem]) -> Problem:
    """Return one finding for all files of a case that were not fetched, with the command that fetches them."""
    first = next(iter(unfetched.values()))
    if "git-annex" not in first.found:
        return first
    names = " ".join(shlex.quote(name_in(root, path)) for path in unfetched)
    return _problem(first.code, Path(first.file), first.found, first.expected, f"in {root}: git annex get {names}")


def _two_images(images: list[Path]) -> Problem:
    found = f"{images[0].name} and {images[1].name}"
    return _problem("E-PAIR-AMBIGUOUS", images[0], found, "one file", "move one of them away")


def _no_image(tree: Tree, name: str, masks: Mapping[str, Path]) -> Problem:
    mask = next(iter(masks.values()))
    place = Path(subject_of(name), *_below_subject(mask.parent), f"{name}.nii.gz")
    original = tree.root / "sourcedata" / place
    found = "a mask without an image"
    if original.exists() or original.is_symlink():
        found += " (the file in sourcedata is the unprocessed original, on which the mask does not lie)"
    fix = f"put the image there; in a git-annex clone: git annex get {shlex.quote(place.as_posix())}"
    return _problem("E-PAIR-NOIMAGE", mask, found, str(tree.root / place), fix)


def _no_mask(tree: Tree, wish: Wish, name: str, image: Path, structure: str) -> Problem:
    folder = Path("derivatives", wish.derivatives[0], subject_of(name), *_below_subject(image.parent))
    expected = (folder / f"{name}_{STRUCTURES[structure].masks[0]}.nii.gz").as_posix()
    if name in tree.soft:
        found = f"an image with a soft mask, but without a hard one of the {structure}"
        fix = "give the folder of hard masks, for example --derivatives labels_softseg_bin"
        return _problem("E-PAIR-NOMASK", image, found, expected, fix)
    fix = "add it, or leave the contrast or the class out (--contrasts, --classes)"
    return _problem("E-PAIR-NOMASK", image, f"an image without a mask of the {structure}", expected, fix)


def _series(image: Path) -> Problem:
    fix = "take its average (--contrasts rec-average_dwi) or the image without diffusion weighting (acq-b0_dwi)"
    return _problem("E-IN-DIM", image, "a diffusion series (4-D, with a gradient table)", "one 3-D volume", fix)


def _circular(masks: Mapping[str, Path], made: Mapping[str, Provenance]) -> Problem:
    structure = next(name for name, by in made.items() if by.source == "model")
    found = f"the mask of a test subject, made by a model ({made[structure].said[-1]})"
    fix = "correct the mask by hand and say so in its JSON file, take another folder, or --allow-model-labels"
    return _problem("E-LABEL-MODEL", masks[structure], found, "a mask drawn or corrected by a person", fix)


def _refuse_unknown_contrasts(words: Collection[str], there: set[str]) -> None:
    unknown = next((word for word in words if not any(wanted(contrast, (word,)) for contrast in there)), None)
    if unknown is not None:
        raise UsageError(
            "E-PAIR-CONTRAST",
            file="--contrasts",
            found=f"{unknown!r}, which no file has",
            expected="contrasts of this tree",
            fix=nearest(unknown, there),
        )


def _kept(name: str, images: set[str] | None) -> bool:
    """Whether an image, or a mask of it, is among those to use."""
    return images is None or any(other == name or other.startswith(f"{name}_") for other in images)


def _below_subject(folder: Path) -> tuple[str, ...]:
    """Return the folders between the subject's and the file's: ``("anat",)``."""
    parts = folder.parts
    start = max(k for k, part in enumerate(parts) if part.startswith("sub-"))
    return parts[start + 1 :]


def _problem(code: str, file: Path, found: str, expected: str, fix: str) -> Problem:
    return Problem("error", code, str(file), found, expected, fix)
