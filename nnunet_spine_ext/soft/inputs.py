"""Which masks belong to one subject: words of a command line, a table, or a BIDS-like tree."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nnunet_spine_ext.core.errors import NoInputError, UsageError
from nnunet_spine_ext.core.io import NIFTI_SUFFIXES, strip_suffix
from nnunet_spine_ext.core.splits import shorten

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]*")
_COLUMNS = ("subject", "contrast", "mask", "image")
# Entities of a BIDS name that say which scan it is, not which contrast.
_NOT_CONTRAST = re.compile(r"(sub|ses|run)-[A-Za-z0-9]+_")
# Entities, the suffix of the image (the first word without a dash), and what makes it a derivative.
_DERIVED = re.compile(r"sub-[A-Za-z0-9]+(?:_[A-Za-z0-9]+-[A-Za-z0-9]+)*_[A-Za-z0-9]+_(?P<rest>.+)")


@dataclass
class Job:
    """The masks of one subject, and scans to draw them on, by contrast (or rater)."""

    subject: str
    masks: dict[str, Path] = field(default_factory=dict)
    images: dict[str, Path] = field(default_factory=dict)

    def add(self, contrast: str, mask: str | Path, image: str | Path | None = None) -> None:
        """Add a mask.

        Raises
        ------
        UsageError: a name that cannot be a file name, or one that is taken.
        """
        if not _NAME.fullmatch(contrast):
            raise _usage(contrast or "a mask", f"the name {contrast!r}", "letters, digits and _ . + -", "rename it")
        taken = next((name for name in self.masks if name.lower() == contrast.lower()), None)
        if taken is not None:
            where = f"{self.subject}: " if self.subject else ""
            raise _usage(f"{where}{contrast}", f"two masks called {contrast}", "a name for each", "rename one of them")
        self.masks[contrast] = Path(mask).expanduser()
        if image:
            self.images[contrast] = Path(image).expanduser()


def from_words(masks: Sequence[str], images: Sequence[str] = ()) -> list[Job]:
    """Return the job of ``NAME=FILE`` words; a word without a name is called like its file.

    Raises
    ------
    UsageError: a name twice, or an image of a name that no mask has.
    """
    job = Job("")
    for word in masks:
        name, path = _named(word)
        job.add(name, path)
    for word in images:
        name, path = _named(word)
        if name not in job.masks:
            raise _usage(
                "--images", f"an image {name!r} without a mask", f"one of {', '.join(job.masks)}", "name it so"
            )
        job.images[name] = Path(path).expanduser()
    return [job]


def from_table(path: str | Path) -> list[Job]:
    """Return the jobs of a table; relative paths start at its folder.

    CSV or TSV with the columns ``subject``, ``contrast``, ``mask`` and, if wanted, ``image``; or YAML or JSON:
    ``subject: {contrast: mask}`` or ``subject: {contrast: {mask: ..., image: ...}}``.

    Raises
    ------
    UsageError: not such a table. NoInputError: an empty one.
    """
    path = Path(path).expanduser()
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise _usage(path, f"cannot be read ({error})", "a table", "check the path") from error
    suffix = path.suffix.lower()
    if suffix in (".csv", ".tsv"):
        rows = _csv_rows(path, text, "\t" if suffix == ".tsv" else ",")
    elif suffix in (".yaml", ".yml", ".json"):
        rows = _tree_rows(path, text)
    else:
        raise _usage(path, f"a table ending in {suffix or 'nothing'!r}", ".csv, .tsv, .yaml or .json", "rename it")
    jobs: dict[str, Job] = {}
    for subject, contrast, mask, image in rows:
        if not _NAME.fullmatch(subject):
            raise _usage(path, f"the subject {subject!r}", "letters, digits and _ . + -", "rename it")
        job = jobs.setdefault(subject, Job(subject))
        job.add(contrast, path.parent / mask, path.parent / image if image else None)
    if not jobs:
        raise _nothing(path, "an empty table", "rows of subject, contrast, mask")
    return list(jobs.values())


def from_bids(root: str | Path, ending: str) -> list[Job]:
    """Return a job for each ``sub-*`` of a tree: masks called ``<image>_<ending>.nii.gz``, anywhere below it.

    A contrast is what an image's name has besides the subject, session and run. The image is drawn if it lies in the
    tree, too. Sessions are subjects of their own: between two of them a cord may have changed.

    Raises
    ------
    UsageError: no such folder, two masks of one contrast. NoInputError: no mask.
    """
    root = Path(root).expanduser()
    if not root.is_dir():
        raise _usage(root, "no such folder", "a folder with sub-*", "check the path")
    files = sorted(p for p in root.rglob("sub-*") if p.name.lower().endswith(NIFTI_SUFFIXES))
    stems = {path: strip_suffix(path) for path in files}
    scans = {stem: path for path, stem in reversed(stems.items()) if "derivatives" not in path.parts}
    jobs: dict[str, Job] = {}
    for path, stem in stems.items():
        if not stem.endswith(f"_{ending}"):
            continue
        scan = stem.removesuffix(f"_{ending}")
        parts = dict(re.findall(r"(sub|ses)-([A-Za-z0-9]+)", scan))
        subject = "_".join(f"{key}-{value}" for key, value in parts.items())
        contrast = _NOT_CONTRAST.sub("", scan)
        jobs.setdefault(subject, Job(subject)).add(contrast, path, scans.get(scan))
    if not jobs:
        raise NoInputError(
            "E-SOFT-NOTHING",
            file=root,
            found=f"no file sub-*_{ending}.nii.gz",
            expected="masks of that name",
            fix=f"name what follows the image's name with --ending; there are: {_endings(stems.values())}",
        )
    return list(jobs.values())


def _endings(stems: Iterable[str]) -> str:
    """Return what follows the names of images in a tree, without entities of the images themselves."""
    rests = {found["rest"] for stem in stems if (found := _DERIVED.fullmatch(stem)) is not None}
    return shorten(sorted(rests), 8) if rests else "none"


def weights_of(words: Iterable[str]) -> dict[str, float]:
    """Return ``NAME=NUMBER`` words as numbers; raises UsageError for anything else."""
    found = {}
    for word in words:
        name, _, number = word.partition("=")
        try:
            found[name] = float(number)
        except ValueError as error:
            raise _usage("--weights", repr(word), "NAME=NUMBER", "such as T2w=2") from error
    return found


def _named(word: str) -> tuple[str, str]:
    name, separator, path = word.partition("=")
    # A path may hold '=', a name may not.
    if separator and _NAME.fullmatch(name):
        return name, path
    return strip_suffix(word), word


def _csv_rows(path: Path, text: str, delimiter: str) -> list[tuple[str, str, str, str]]:
    reader = csv.DictReader(text.splitlines(), delimiter=delimiter)
    missing = [name for name in _COLUMNS[:3] if name not in (reader.fieldnames or ())]
    if missing:
        found = f"no column {', '.join(missing)} (there are: {', '.join(reader.fieldnames or ()) or 'none'})"
        raise _usage(path, found, "subject, contrast, mask and perhaps image in the first line", "name the columns so")
    rows = []
    for number, row in enumerate(reader, start=2):
        cells = [(row.get(name) or "").strip() for name in _COLUMNS]
        if not any(cells):
            continue
        if not all(cells[:3]):
            raise _usage(path, f"an empty cell in line {number}", "subject, contrast and mask", "fill it in")
        rows.append((cells[0], cells[1], cells[2], cells[3]))
    return rows


def _tree_rows(path: Path, text: str) -> list[tuple[str, str, str, str]]:
    import yaml

    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise _usage(path, f"no YAML ({error})", "subject: {contrast: mask}", "correct it") from error
    rows = []
    if content is None:
        return []
    for subject, masks in _mapping(path, content).items():
        for contrast, entry in _mapping(path, masks).items():
            if isinstance(entry, str):
                rows.append((str(subject), str(contrast), entry, ""))
                continue
            facts = _mapping(path, entry)
            if "mask" not in facts or set(facts) - {"mask", "image"}:
                found = f"{subject}: {contrast} with {', '.join(map(str, facts)) or 'nothing'}"
                raise _usage(path, found, "mask and perhaps image", "name the files so")
            rows.append((str(subject), str(contrast), str(facts["mask"]), str(facts.get("image") or "")))
    return rows


def _mapping(path: Path, content: Any) -> Mapping[Any, Any]:
    if not isinstance(content, Mapping):
        raise _usage(path, f"{content!r:.60}", "subject: {contrast: mask}", "correct the table")
    return content


def _usage(file: str | Path, found: str, expected: str, fix: str) -> UsageError:
    return UsageError("E-SOFT-INPUT", file=file, found=found, expected=expected, fix=fix)


def _nothing(file: Path, found: str, expected: str) -> NoInputError:
    return NoInputError("E-SOFT-NOTHING", file=file, found=found, expected=expected, fix="check path and names")
