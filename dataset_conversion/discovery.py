"""From file patterns to cases: which images and masks belong together, who was scanned, what the case is called."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from nnunet_spine_ext.core.cases import INFO_KEYS
from nnunet_spine_ext.core.config import nearest
from nnunet_spine_ext.core.errors import NoInputError, Problem, UsageError
from nnunet_spine_ext.dataset_conversion.patterns import Match, Pattern
from nnunet_spine_ext.dataset_conversion.sidecars import read_sidecar

# File systems allow 255 bytes; suffixes and the temporary names of atomic writing need some of them.
_LONGEST_ID = 160
# Role of the soft label of a case, and the pattern of a source without any.
SOFT = "soft"
NONE = "-"
_BIDS_SUBJECT = re.compile(r"(?:^|[/_])(sub-[A-Za-z0-9]+)")


@dataclass(frozen=True)
class Source:
    """One file of a case.

    `role` is ``image_0000``, ..., ``label``, or whatever the builder of the case calls it: ``instances``,
    ``chunk-BWS``. `name` is what cases.json keeps: its path below the source's root.
    """

    role: str
    path: Path
    name: str


@dataclass(frozen=True)
class Candidate:
    """A case as it was found, nothing opened yet.

    Parameters
    ----------
    images: one source per channel.
    label: None for unlabelled cases.
    info: facts for cases.json.
    test, train_only: set by the subject lists of the user.
    extras: further files, for a builder that knows what to do with them.
    """

    case_id: str
    subject: str
    images: tuple[Source, ...]
    label: Source | None
    info: dict[str, Any]
    test: bool = False
    train_only: bool = False
    extras: tuple[Source, ...] = ()

    @property
    def sources(self) -> tuple[Source, ...]:
        """All files of the case: images, mask, extras."""
        label = () if self.label is None else (self.label,)
        return (*self.images, *label, *self.extras)


@dataclass(frozen=True)
class Discovery:
    """Cases and, for files without a counterpart, what is missing."""

    cases: list[Candidate] = field(default_factory=list)
    unpaired: list[Problem] = field(default_factory=list)


@dataclass(frozen=True)
class _Group:
    """Patterns whose files make cases together: one per channel, one for masks, and one for soft labels."""

    channels: tuple[Pattern, ...]
    label: Pattern | None
    contrast: str | None
    soft: Pattern | None = None

    @property
    def facts(self) -> dict[str, str]:
        every = [*self.channels, *(pattern for pattern in (self.label, self.soft) if pattern is not None)]
        facts = {key: value for pattern in every for key, value in pattern.facts.items()}
        return facts | ({"contrast": self.contrast} if self.contrast else {})


def discover(
    images: Sequence[str],
    labels: Sequence[str],
    unlabelled: Sequence[str] = (),
    *,
    soft: Sequence[str] = (),
    channels: int = 1,
    contrast: Sequence[str] = (),
    subject_pattern: str | None = None,
) -> Discovery:
    """Find the cases of image and mask patterns.

    Parameters
    ----------
    images: patterns; each run of `channels` of them makes the cases of one source.
    labels: one pattern per source.
    unlabelled: patterns or folders of images without masks, `channels` per source.
    soft: none, or one pattern of soft labels per labelled source (``-``: this one has none); cases need not have one
        (role ``soft``).
    contrast: none, one for all, or one per source (labelled sources first).
    subject_pattern: number of a wildcard (from 1), or a regular expression searched in the first image's path (its
        group ``subject``, else its first group, else the whole match).

    Raises
    ------
    UsageError: numbers of patterns or wildcards do not fit, a case id or an image occurs twice, no subject found.
    NoInputError: a pattern finds nothing.
    """
    groups = _groups(images, labels, unlabelled, channels, contrast, soft)
    named_by_contrast = len(contrast) > 1
    free = {match.path for group in groups if group.label is None for match in group.channels[0].matches()}
    cases: list[Candidate] = []
    unpaired: list[Problem] = []
    for group in groups:
        used = {source.path for case in cases for source in case.images} if group.label is None else set()
        for files, problem in _pair(group, free):
            if problem is not None:
                unpaired.append(problem)
            elif files["image_0000"].path not in used:
                cases.append(_candidate(group, files, subject_pattern, named_by_contrast=named_by_contrast))
    _refuse_twins(cases)
    return Discovery(cases, unpaired)


def assign_subjects(cases: Iterable[Candidate], test: Sequence[str], train_only: Sequence[str]) -> list[Candidate]:
    """Mark the cases of test subjects and of subjects that are only trained on.

    Raises UsageError for a subject that no case has, or that is in both lists.
    """
    listed = list(cases)
    known = {case.subject for case in listed}
    for option, names in (("--test-subjects", test), ("--train-only", train_only)):
        unknown = [name for name in names if name not in known]
        if unknown:
            raise UsageError(
                "E-PAIR-SUBJECT",
                file=option,
                found=f"the subject {unknown[0]!r}, which no case has",
                expected="subjects of this dataset",
                fix=nearest(unknown[0], known),
            )
    both = sorted(set(test) & set(train_only))
    if both:
        raise UsageError(
            "E-PAIR-SUBJECT",
            file="--train-only",
            found=f"{both[0]!r} is a test subject too",
            expected="one of the two",
            fix="remove it from one of the lists",
        )
    return [
        replace(case, test=case.subject in set(test), train_only=case.subject in set(train_only)) for case in listed
    ]


def case_id_of(words: Iterable[str]) -> str:
    """Return a file name from words: ASCII letters, digits, ``_`` and ``-``; long ones end in a hash."""
    parts = [part for part in (_safe(word) for word in dict.fromkeys(words)) if part]
    joined = "_".join(dict.fromkeys(parts)) or "case"
    if len(joined) <= _LONGEST_ID:
        return joined
    return f"{joined[:_LONGEST_ID]}-{hashlib.sha256(joined.encode()).hexdigest()[:8]}"


def _safe(word: str) -> str:
    ascii_only = unicodedata.normalize("NFKD", word).encode("ascii", "ignore").decode()
    return re.sub(r"[^A-Za-z0-9_-]+", "-", ascii_only).strip("-_")


def _groups(
    images: Sequence[str],
    labels: Sequence[str],
    unlabelled: Sequence[str],
    channels: int,
    contrast: Sequence[str],
    soft: Sequence[str],
) -> list[_Group]:
    if len(images) != channels * len(labels) or not images or len(unlabelled) % channels:
        raise UsageError(
            "E-PAIR-COUNT",
            file="--images, --labels",
            found=f"{len(images)} image, {len(labels)} mask and {len(unlabelled)} unlabelled pattern(s)",
            expected=f"{channels} image pattern(s) for each mask pattern, one per channel name",
            fix="give as many patterns; put them in quotes, or the shell replaces them by file names",
        )
    if len(soft) not in (0, len(labels)):
        raise UsageError(
            "E-PAIR-COUNT",
            file="--soft",
            found=f"{len(soft)} pattern(s) for {len(labels)} source(s)",
            expected="one per mask pattern",
            fix="give as many; put them in quotes, or the shell replaces them by file names",
        )
    folders = [f"{text.rstrip('/')}/*" if Path(text).expanduser().is_dir() else text for text in unlabelled]
    count = len(labels) + len(unlabelled) // channels
    if len(contrast) not in (0, 1, len(labels), count):
        raise UsageError(
            "E-PAIR-COUNT",
            file="--contrast",
            found=f"{len(contrast)} contrasts for {len(labels)} source(s)",
            expected="one for all, or one per source",
            fix="give as many",
        )
    names = list(contrast) * count if len(contrast) == 1 else [*contrast, *[None] * (count - len(contrast))]
    patterns = [Pattern.parse(text) for text in [*images, *folders]]
    masks: list[Pattern | None] = [*(Pattern.parse(text) for text in labels), *[None] * (count - len(labels))]
    runs = [tuple(patterns[k * channels : (k + 1) * channels]) for k in range(count)]
    shares = [*(None if text == NONE else Pattern.parse(text) for text in soft), *[None] * (count - len(soft))]
    return [_Group(*row) for row in zip(runs, masks, names, shares, strict=True)]


def _pair(group: _Group, free: set[Path]) -> Iterator[tuple[dict[str, Match], Problem | None]]:
    """Yield, per set of wildcard matches, the files by role, or the problem that something is missing."""
    roles = {f"image_{k:04d}": pattern for k, pattern in enumerate(group.channels)}
    if group.label is not None:
        roles["label"] = group.label
    found = {role: _by_key(pattern, group.channels[0]) for role, pattern in roles.items()}
    if group.soft is not None:
        found[SOFT] = _by_key(group.soft, group.channels[0])
    for key in sorted({key for matches in found.values() for key in matches}):
        matches = {role: by_key[key] for role, by_key in found.items() if key in by_key}
        files = {role: several[0] for role, several in matches.items()}
        crowded = next((several for several in matches.values() if len(several) > 1), None)
        if crowded is not None:
            names = " and ".join(match.relative for match in crowded[:2])
            yield files, _unpaired("E-PAIR-AMBIGUOUS", crowded[0], names, "one file", "move one of them away")
        elif set(files) == {SOFT}:
            yield files, _unpaired("E-PAIR-NOIMAGE", files[SOFT], "a soft label without an image", "both", "add it")
        elif set(files) - {SOFT} == set(roles) - {"label"} and "label" in roles and files["image_0000"].path in free:
            # Listed as unlabelled too: that group takes the image.
            if SOFT in files:
                said = "a soft label of an image without a mask"
                yield files, _unpaired("E-PAIR-NOMASK", files[SOFT], said, "a mask, too", "add the mask")
        else:
            yield files, _missing(files, roles)


def _by_key(pattern: Pattern, first: Pattern) -> dict[Any, list[Match]]:
    if pattern.signature != first.signature:
        raise _mismatch(first, pattern)
    found: dict[Any, list[Match]] = {}
    for match in pattern.matches():
        found.setdefault(match.key, []).append(match)
    if not found:
        raise NoInputError(
            "E-PAIR-NOTHING",
            file=pattern.text,
            found=f"no file below {pattern.root} fits",
            expected="at least one",
            fix="check the pattern; put it in quotes",
        )
    return found


def _missing(files: dict[str, Match], roles: dict[str, Pattern]) -> Problem | None:
    """Return in words which files of a case are missing; None if it is complete."""
    missing = [role for role in roles if role not in files]
    if not missing:
        return None
    present = next(iter(files.values()))
    wanted = ", ".join(roles[role].fill(present) for role in missing)
    if missing == ["label"]:
        return _unpaired("E-PAIR-NOMASK", present, "an image without a mask", wanted, "add it, or --unlabelled")
    if set(files) == {"label"}:
        return _unpaired("E-PAIR-NOIMAGE", present, "a mask without an image", wanted, "add the image")
    return _unpaired("E-CASE-CHANNELS", present, f"only {', '.join(files)} of the case", wanted, "add the missing file")


def _unpaired(code: str, match: Match, found: str, expected: str, fix: str) -> Problem:
    return Problem("error", code, str(match.path), found, expected, fix)


def _candidate(
    group: _Group, files: dict[str, Match], subject_pattern: str | None, *, named_by_contrast: bool
) -> Candidate:
    sources = {role: Source(role, match.path, match.relative) for role, match in files.items()}
    images = tuple(source for role, source in sorted(sources.items()) if role not in ("label", SOFT))
    extras = (sources[SOFT],) if SOFT in sources else ()
    match, pattern, facts = files["image_0000"], group.channels[0], group.facts
    subject = _subject(match, facts, subject_pattern, pattern)
    words = [facts.get("subject", ""), *match.words]
    words += [text for key, text in pattern.facts.items() if key != "subject"]
    words += [group.contrast or ""] if named_by_contrast else []
    info = read_sidecar(match.path) | {key: text for key, text in match.named.items() if key in INFO_KEYS}
    info |= {key: text for key, text in facts.items() if key != "subject"}
    return Candidate(case_id_of(words), subject, images, sources.get("label"), info, extras=extras)


def _subject(match: Match, facts: dict[str, str], subject_pattern: str | None, pattern: Pattern) -> str:
    if subject_pattern is not None:
        found = _by_pattern(match, subject_pattern)
    elif "subject" in facts or "subject" in match.named:
        found = match.named.get("subject") or facts.get("subject", "")
    else:
        bids = _BIDS_SUBJECT.findall(match.path.as_posix())
        found = bids[-1] if bids else next(iter(match.words), "")
    if not found:
        raise UsageError(
            "E-PAIR-SUBJECT",
            file=match.path,
            found=f"no subject in {pattern.text!r}" + (f" by {subject_pattern!r}" if subject_pattern else ""),
            expected="a wildcard or a {subject} in the pattern",
            fix="put patterns in quotes; name the subject of single files with {subject=NAME}",
        )
    return found


def _by_pattern(match: Match, subject_pattern: str) -> str:
    if subject_pattern.isdigit():
        number = int(subject_pattern)
        return match.groups[number - 1].strip("/") if 1 <= number <= len(match.groups) else ""
    try:
        hit = re.search(subject_pattern, match.path.as_posix())
    except re.error as error:
        raise UsageError(
            "E-PAIR-SUBJECT",
            file="--subject-pattern",
            found=f"{subject_pattern!r} ({error})",
            expected="the number of a wildcard or a regular expression",
            fix="correct it",
        ) from error
    if hit is None:
        return ""
    if "subject" in hit.groupdict():
        return hit.group("subject") or ""
    return (hit.group(1) if hit.re.groups else hit.group()) or ""


def _mismatch(first: Pattern, other: Pattern) -> UsageError:
    def said(pattern: Pattern) -> str:
        stars, names = pattern.signature
        return f"{stars} wildcard(s)" + (f" and {', '.join(names)}" if names else "")

    return UsageError(
        "E-PAIR-WILDCARDS",
        file=other.text,
        found=f"{said(other)}, but {first.text!r} has {said(first)}",
        expected="the same wildcards in patterns that belong together",
        fix="pair by name: {subject}/t2.nii.gz with labels/{subject}_seg.nii.gz",
    )


def refuse_same_ids(cases: Iterable[Candidate]) -> None:
    """Raise UsageError for equal case ids, whatever the letter case."""
    by_id: dict[str, Candidate] = {}
    for case in cases:
        twin = by_id.setdefault(case.case_id.lower(), case)
        if twin is not case:
            files = [str(one.sources[0].path) if one.sources else "nothing" for one in (case, twin)]
            raise UsageError(
                "E-CASE-TWICE",
                file=files[0],
                found=f"the case id {case.case_id!r}, and {twin.case_id!r} for {files[1]}",
                expected="ids that differ in more than letter case",
                fix="add a fact such as {contrast=T1w} or {site=A} to one of the patterns",
            )


def _refuse_twins(cases: Sequence[Candidate]) -> None:
    """Refuse equal case ids and images that two cases use."""
    refuse_same_ids(cases)
    by_image: dict[Path, Candidate] = {}
    for case in cases:
        path = case.images[0].path
        same = by_image.setdefault(path.resolve(), case)
        if same is not case:
            raise UsageError(
                "E-PAIR-TWICE",
                file=path,
                found=f"this image in the cases {same.case_id!r} and {case.case_id!r}",
                expected="each image in one case",
                fix="make the patterns exclusive",
            )
