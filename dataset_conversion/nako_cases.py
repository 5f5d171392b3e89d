"""From the files of a NAKO-like tree to cases: repeated scans, composed series, masks of a scan, chunks to join."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from nnunet_spine_ext.core.entities import agreement
from nnunet_spine_ext.core.errors import Problem
from nnunet_spine_ext.core.splits import shorten
from nnunet_spine_ext.dataset_conversion.discovery import Candidate, Source, case_id_of
from nnunet_spine_ext.dataset_conversion.nako_tree import (
    CHUNKS,
    INSTANCES,
    SEMANTIC,
    STITCHED,
    Tree,
    TreeFile,
    composed_reason,
)
from nnunet_spine_ext.dataset_conversion.sidecars import read_sidecar

Use = Literal["auto", "chunks", "stitched"]
USES: tuple[Use, ...] = ("auto", "chunks", "stitched")
# Entities of a mask that say what it is, not of which scan.
_BESIDE = ("seg", "mod", "desc")
_T = TypeVar("_T")


@dataclass(frozen=True)
class Wish:
    """What the user wants of the tree.

    Parameters
    ----------
    use: where a scan has chunks and an image joined of them: which to take; ``auto`` takes what was joined, with
        `stitch` the chunks, but never those without masks instead of those with.
    stitch: join the chunks of a scan.
    unlabelled: images without masks become cases too; `test` are subjects for whom they always do.
    """

    use: Use = "auto"
    stitch: bool = False
    unlabelled: bool = False
    test: frozenset[str] = frozenset()


@dataclass
class NakoCases:
    """Cases, what cannot be used and why, and what to say about the whole.

    `partial`: whether a case has chunks with masks and chunks without, so that `ignore` is needed.
    """

    cases: list[Candidate] = field(default_factory=list)
    unusable: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    partial: bool = False


@dataclass(frozen=True)
class _Scan:
    """An image with its masks; `earlier` is a mask of a scan that this one repeats."""

    image: TreeFile
    label: TreeFile | None = None
    instances: TreeFile | None = None
    earlier: TreeFile | None = None


def find_cases(tree: Tree, wish: Wish) -> NakoCases:
    """Settle for each scan which files make its case; nothing is opened but sidecars."""
    found = NakoCases()
    masks = _grouped(tree.masks, lambda mask: mask.subject)
    by_subject = _grouped(tree.images, lambda image: image.subject)
    repeats: list[str] = []
    composed: list[str] = []
    replaced: list[str] = []
    for subject, images in sorted(by_subject.items()):
        owned = _owned(images, masks.get(subject, []), found)
        kept = _without_composed(images, found, composed)
        kept = _chosen_kind(kept, wish, owned, replaced)
        latest = _latest(kept, found)
        repeats += [image.name for group in latest.values() for image in group]
        _add_cases(_with_masks(latest, owned, found), wish, found)
    _report_strays(tree, masks, by_subject, found)
    for listed, text in (
        (repeats, "repeated scans left out, the highest sequ counts"),
        (composed, "composed series left out beside their chunks (composing deforms)"),
        (replaced, f"left out, because of a scan either its chunks or what was stitched is taken (--use {wish.use})"),
    ):
        found.notes += [f"{text}: {shorten(listed)}"] if listed else []
    return found


def _grouped(items: Iterable[_T], key: Callable[[_T], Hashable]) -> dict[Any, list[_T]]:
    groups: dict[Any, list[_T]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups


def _place(image: TreeFile) -> tuple[str, str]:
    """Images of one session and contrast show one spine."""
    return image.entities.get("ses"), image.entities.suffix


def _without_composed(images: Sequence[TreeFile], found: NakoCases, composed: list[str]) -> list[TreeFile]:
    """Leave out what the scanner composed; a scan of which there is nothing else is reported."""
    reasons = {image: None if image.is_stitched else composed_reason(image) for image in images}
    single = {image for image, reason in reasons.items() if reason is None and (image.chunk or image.is_stitched)}
    chunked = {_place(image) for image in single if image.chunk}
    known = {_place(image) for image in single}
    kept = []
    for image, reason in reasons.items():
        if reason is None and image not in single and _place(image) in chunked:
            composed.append(f"{image.name} (it has no chunk in its name beside images that have)")
        elif reason is None:
            kept.append(image)
        elif _place(image) in known:
            composed.append(f"{image.name} ({reason})")
        else:
            what, fix = f"a composed, deformed series: {reason}", "export the single chunks (HWS, BWS, LWS) instead"
            found.unusable.append(_problem("E-NAKO-COMPOSED", image, what, "a scan as it was measured", fix))
    return kept


def _owned(images: Sequence[TreeFile], masks: Sequence[TreeFile], found: NakoCases) -> dict[TreeFile, list[TreeFile]]:
    """Return the masks of each image of a subject: those whose entities name this scan and no other one better."""
    owned: dict[TreeFile, list[TreeFile]] = {}
    for mask in masks:
        fitting = [image for image in images if _fits(image, mask)]
        # The fewer entities of an image a mask does not name, the surer it is its image.
        least = min((len(image.entities.values) for image in fitting), default=0)
        owners = [image for image in fitting if len(image.entities.values) == least]
        if len(owners) > 1:
            names = shorten([image.name for image in owners])
            fix = "put the entities that tell them apart into the mask's name, such as sequ"
            found.unusable.append(_problem("E-PAIR-AMBIGUOUS", mask, f"a mask for {names}", "one image", fix))
        elif owners:
            owned.setdefault(owners[0], []).append(mask)
    return owned


def _semantic(masks: Iterable[TreeFile]) -> list[TreeFile]:
    return [mask for mask in masks if mask.entities.get("seg") in SEMANTIC]


def _chosen_kind(
    images: Sequence[TreeFile], wish: Wish, owned: dict[TreeFile, list[TreeFile]], replaced: list[str]
) -> list[TreeFile]:
    """Take chunks or the image that was joined of them, where a scan has both: the labelled ones if only those are."""
    wanted = wish.use == "stitched" or (wish.use == "auto" and not wish.stitch)
    have = {flag: {_place(image) for image in images if image.is_stitched == flag} for flag in (True, False)}
    labelled = {(_place(image), image.is_stitched) for image in images if _semantic(owned.get(image, []))}
    kept = []
    for image in images:
        place = _place(image)
        if wish.use != "auto":
            takes = wanted
        elif place not in have[wanted]:
            takes = not wanted
        else:
            takes = wanted if (place, wanted) in labelled or (place, not wanted) not in labelled else not wanted
        if image.is_stitched == takes:
            kept.append(image)
        else:
            replaced.append(image.name)
    return kept


def _latest(images: Sequence[TreeFile], found: NakoCases) -> dict[TreeFile, list[TreeFile]]:
    """Return the scans with the highest `sequ` among those that differ in nothing else, and the scans they repeat."""
    kept = {}
    groups = _grouped(
        images,
        lambda image: (*sorted(image.entities.without("sequ").items()), image.entities.suffix, image.is_stitched),
    )
    for group in groups.values():
        best = max(image.sequence for image in group)
        last = [image for image in group if image.sequence == best]
        if len(last) > 1:
            names = " and ".join(image.name for image in last[:2])
            fix = "move one of them away"
            found.unusable.append(_problem("E-PAIR-AMBIGUOUS", last[0], names, "one file per scan", fix))
            continue
        kept[last[0]] = [image for image in group if image is not last[0]]
    return kept


def _with_masks(
    latest: dict[TreeFile, list[TreeFile]], owned: dict[TreeFile, list[TreeFile]], found: NakoCases
) -> list[_Scan]:
    """Give each image its masks, one of a kind."""
    scans = []
    for image, repeated in latest.items():
        try:
            label = _best(image, owned.get(image, []), SEMANTIC)
            instances = _best(image, owned.get(image, []), INSTANCES)
        except _AmbiguousError as error:
            fix = "say with --derivatives which folder counts"
            found.unusable.append(_problem("E-PAIR-AMBIGUOUS", image, str(error), "one mask of a kind", fix))
            continue
        earlier = _semantic(mask for scan in repeated for mask in owned.get(scan, []))
        scans.append(_Scan(image, label, instances, next(iter(earlier), None)))
    return scans


class _AmbiguousError(Exception):
    """Several masks fit equally well."""


def _fits(image: TreeFile, mask: TreeFile) -> bool:
    other = mask.entities.get("mod", image.entities.suffix)
    return other == image.entities.suffix and agreement(image.entities, mask.entities, beside=_BESIDE) is not None


def _best(image: TreeFile, masks: Sequence[TreeFile], kinds: Sequence[str]) -> TreeFile | None:
    for kind in kinds:
        fitting = [mask for mask in masks if mask.entities.get("seg") == kind]
        scores = [agreement(image.entities, mask.entities, beside=_BESIDE) or 0 for mask in fitting]
        best = [mask for mask, score in zip(fitting, scores, strict=True) if score == max(scores)]
        if len(best) > 1:
            raise _AmbiguousError(f"the masks {shorten([mask.name for mask in best])}")
        if best:
            return best[0]
    return None


def _add_cases(scans: Sequence[_Scan], wish: Wish, found: NakoCases) -> None:
    if not wish.stitch:
        for scan in scans:
            _add(found, wish, [scan], words=_words(scan.image))
        return
    chunks = [scan for scan in scans if scan.image.chunk and not scan.image.is_stitched]
    for scan in scans:
        if scan not in chunks:
            _add(found, wish, [scan], words=_words(scan.image))
    groups = _grouped(
        chunks,
        lambda scan: (*sorted(scan.image.entities.without("chunk", "sequ").items()), scan.image.entities.suffix),
    )
    for group in groups.values():
        order = [*CHUNKS, *sorted({scan.image.chunk for scan in group} - set(CHUNKS))]
        ordered = sorted(group, key=lambda scan: order.index(scan.image.chunk))
        words = _words(ordered[0].image, without=("chunk",))
        _add(found, wish, ordered, words=[*words[:-1], STITCHED, words[-1]])


def _words(image: TreeFile, without: tuple[str, ...] = ()) -> list[str]:
    """Return the words of a case id: subject, session, the other entities by name, suffix; not the series number."""
    values = image.entities.without("sequ", *without)
    first = [f"{key}-{values.pop(key)}" for key in ("sub", "ses") if key in values]
    middle = [STITCHED] if image.is_stitched else []
    return [*first, *(f"{key}-{value}" for key, value in sorted(values.items())), *middle, image.entities.suffix]


def _add(found: NakoCases, wish: Wish, scans: Sequence[_Scan], words: Sequence[str]) -> None:
    """Add a case of one image, or of the chunks of one scan from the head downwards."""
    first = scans[0].image
    subject = first.subject
    without = [scan for scan in scans if scan.label is None]
    if without and not wish.unlabelled and not (subject in wish.test and len(without) == len(scans)):
        scan = without[0]
        what = "an image without a mask"
        if scan.earlier is not None:
            what = f"a repeated scan without a mask ({scan.earlier.name} is of the scan before it)"
        expected = f"a seg-{' or seg-'.join(SEMANTIC)} mask with the image's entities"
        found.unusable.append(_problem("E-PAIR-NOMASK", scan.image, what, expected, "add it, or --unlabelled"))
        return
    found.partial |= 0 < len(without) < len(scans)
    joined = len(scans) > 1 or (wish.stitch and bool(first.chunk) and not first.is_stitched)
    sources = []
    for scan in scans:
        files = {"image_0000": scan.image, "label": scan.label, "instances": scan.instances}
        if scan.label is None:
            # Instances without classes are of no use.
            files["instances"] = None
        for role, file in files.items():
            if file is not None:
                part = "chunk" if role == "image_0000" else role
                sources.append(Source(f"{part}-{scan.image.chunk}" if joined else role, file.path, file.name))
    images = tuple(source for source in sources if source.role.startswith(("image", "chunk")))
    others = [source for source in sources if source not in images]
    label = next((source for source in others if source.role.startswith("label")), None)
    middle = scans[len(scans) // 2].image
    info = {**read_sidecar(middle.path), "contrast": first.entities.suffix}
    info |= {"chunk": first.chunk} if first.chunk and not joined else {}
    info |= {"session": first.entities.get("ses")} if first.entities.get("ses") else {}
    found.cases.append(
        Candidate(
            case_id=case_id_of(words),
            subject=subject,
            images=images,
            label=label,
            info=info,
            test=subject in wish.test,
            extras=tuple(source for source in others if source is not label),
        )
    )


def _report_strays(
    tree: Tree, masks: dict[str, list[TreeFile]], by_subject: dict[str, list[TreeFile]], found: NakoCases
) -> None:
    """Report semantic masks of which the image is missing."""
    suffixes = {image.entities.suffix for image in tree.images}
    others = _grouped(tree.others, lambda image: image.subject)
    for subject, listed in sorted(masks.items()):
        known = [*by_subject.get(subject, []), *others.get(subject, [])]
        for mask in listed:
            wanted = (mask.entities.get("mod") or min(suffixes)) in suffixes
            if wanted and _semantic([mask]) and not any(_fits(image, mask) for image in known):
                what, fix = "a mask without an image", "add it"
                found.unusable.append(_problem("E-PAIR-NOIMAGE", mask, what, "the scan that its name tells", fix))


def _problem(code: str, file: TreeFile, found: str, expected: str, fix: str) -> Problem:
    return Problem("error", code, str(file.path), found, expected, fix)
