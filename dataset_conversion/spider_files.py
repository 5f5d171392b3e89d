"""The files of a SPIDER folder: which images, masks and tables there are and which series they belong to."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from nnunet_spine_ext.core.errors import NoInputError, Problem, UsageError
from nnunet_spine_ext.core.io import is_image, strip_suffix
from nnunet_spine_ext.dataset_conversion.discovery import Source

# Spelling in file names, without case and separators, to the published spelling and the contrast of cases.json.
SERIES = {"t1": ("t1", "T1w"), "t2": ("t2", "T2w"), "t2space": ("t2_SPACE", "T2w")}
SERIES_NAMES = tuple(name for name, _ in SERIES.values())

_NAME = re.compile(r"(?P<patient>[A-Za-z0-9][A-Za-z0-9-]*)_(?P<series>t1|t2|t2[ _-]?space)", re.IGNORECASE)
# What archives of a Macintosh leave behind.
_FOREIGN = "__MACOSX"


@dataclass(frozen=True, order=True)
class SeriesKey:
    """A series: patient (numbers without leading zeros) and its published spelling, ``t1``, ``t2`` or ``t2_SPACE``."""

    patient: str
    series: str

    @property
    def case_id(self) -> str:
        """Name of the case, as in the published files."""
        return f"{self.patient}_{self.series}"

    @property
    def contrast(self) -> str:
        """Contrast for cases.json."""
        return dict(SERIES.values())[self.series]


@dataclass
class SpiderFiles:
    """What was found: images and masks by series, tables by file, and files whose names say nothing."""

    root: Path
    images: dict[SeriesKey, Source] = field(default_factory=dict)
    masks: dict[SeriesKey, Source] = field(default_factory=dict)
    strange: list[Problem] = field(default_factory=list)

    def keys(self) -> list[SeriesKey]:
        """Return every series that has an image or a mask, patients in the order of their numbers."""
        return sorted({*self.images, *self.masks}, key=lambda key: (_natural(key.patient), key.series))

    def missing(self, key: SeriesKey) -> Problem | None:
        """Return what a series lacks; None if it is complete."""
        image, mask = self.images.get(key), self.masks.get(key)
        if image is None and mask is not None:
            expected = str(self.root / "images" / mask.path.name)
            return Problem("error", "E-PAIR-NOIMAGE", str(mask.path), "a mask without an image", expected, "add it")
        if mask is None and image is not None:
            expected = str(self.root / "masks" / image.path.name)
            return Problem("error", "E-PAIR-NOMASK", str(image.path), "an image without a mask", expected, "add it")
        return None


def parse_series(name: str) -> SeriesKey | None:
    """Return the series that a file name or a table's entry means; None if it is no name of SPIDER."""
    found = _NAME.fullmatch(strip_suffix(name.strip()))
    if found is None:
        return None
    spelling = re.sub(r"[ _-]", "", found["series"].lower())
    return SeriesKey(patient_name(found["patient"]), SERIES[spelling][0])


def patient_name(text: str) -> str:
    """Return a patient's name in one spelling: ``005``, ``5`` and ``5.0`` are one patient."""
    bare = text.strip()
    number = re.fullmatch(r"0*(\d+)(\.0+)?", bare)
    return number[1] if number else bare


def find_files(source: str | Path) -> SpiderFiles:
    """Find the images and masks of a SPIDER folder.

    They are in folders called ``images`` and ``masks``, in the source itself or one level below it (archives unpack
    into a folder of their own); the files may lie deeper.

    Raises
    ------
    NoInputError: no such folders, or no image in them.
    UsageError: several such folders, or two files for one series.
    """
    root = Path(source).expanduser()
    folders = {name: _folder(root, name) for name in ("images", "masks")}
    files = SpiderFiles(folders["images"].parent)
    _collect(folders["images"], root, "image_0000", files.images, files.strange)
    _collect(folders["masks"], root, "label", files.masks, files.strange)
    if not files.images and not files.masks:
        raise NoInputError(
            "E-SPIDER-LAYOUT",
            file=folders["images"],
            found="no file called like a series",
            expected="files such as 1_t1.mha, 1_t2.mha, 1_t2_SPACE.mha",
            fix="unpack images.zip and masks.zip into the folder",
        )
    return files


def find_table(files: SpiderFiles, source: str | Path, word: str) -> Path | None:
    """Return the CSV file whose name contains a word, beside the folders of images; None if there is none.

    Raises UsageError when there are several.
    """
    folders = dict.fromkeys((Path(source).expanduser(), files.root))
    found = sorted({path for folder in folders for path in _visible(folder.iterdir()) if _is_table(path, word)})
    if len(found) > 1:
        raise UsageError(
            "E-SPIDER-LAYOUT",
            file=found[0],
            found=f"{len(found)} tables with {word!r} in their names ({', '.join(path.name for path in found)})",
            expected="one",
            fix="move the others away",
        )
    return found[0] if found else None


def find_subregions(folder: str | Path, case_ids: Collection[str]) -> dict[str, Source]:
    """Return the semantic masks of a folder (or of folders in it) by the case they are called after.

    A mask of the case ``1_t2`` is called ``1_t2.nii.gz``, or ``1_t2_seg-spine_msk.nii.gz`` as SPINEPS does; letter case
    does not matter.

    Raises
    ------
    NoInputError: none of the cases has one.
    UsageError: a case has two.
    """
    root = Path(folder).expanduser()
    by_name = {case_id.lower(): case_id for case_id in case_ids}
    found: dict[str, Source] = {}
    for path in _images(root):
        stem = re.sub(r"_seg(-spine(_msk)?)?$", "", strip_suffix(path).lower())
        case_id = by_name.get(stem)
        if case_id is None:
            continue
        if case_id in found:
            raise _twice(case_id, found[case_id].path, path)
        found[case_id] = Source("subregions", path, path.relative_to(root).as_posix())
    if not found:
        example = next(iter(sorted(case_ids)), "1_t2")
        raise NoInputError(
            "E-SPIDER-SUBREGIONS",
            file=root,
            found="no mask that is called after a case",
            expected=f"files such as {example}.nii.gz or {example}_seg-spine_msk.nii.gz",
            fix="check the folder given with --subregions",
        )
    return found


def _folder(root: Path, name: str) -> Path:
    if not root.is_dir():
        raise NoInputError(
            "E-SPIDER-LAYOUT",
            file=root,
            found="no such folder",
            expected="the folder that holds images and masks of SPIDER",
            fix="check the path",
        )
    below = [path for path in _visible(root.iterdir()) if path.is_dir()]
    nested = [path for folder in below for path in _visible(folder.iterdir())] if below else []
    # A folder in one of the same name is what unpacking `images.zip` into `images` gives: the outer one will do.
    for level in (below, nested):
        found = [path for path in level if path.is_dir() and path.name.lower() == name]
        if len(found) > 1:
            names = ", ".join(str(path.relative_to(root)) for path in found)
            raise UsageError(
                "E-SPIDER-LAYOUT",
                file=root,
                found=f"several folders called {name} ({names})",
                expected="one",
                fix="give the folder that holds the one you mean",
            )
        if found:
            return found[0]
    raise NoInputError(
        "E-SPIDER-LAYOUT",
        file=root,
        found=f"no folder called {name}",
        expected="the folders images and masks of SPIDER",
        fix="unpack images.zip and masks.zip, and give the folder that holds both",
    )


def _collect(folder: Path, root: Path, role: str, into: dict[SeriesKey, Source], strange: list[Problem]) -> None:
    for path in _images(folder):
        key = parse_series(path.name)
        if key is None:
            found = f"the name {path.name}"
            expected = "PATIENT_t1, PATIENT_t2 or PATIENT_t2_SPACE"
            strange.append(Problem("error", "E-SPIDER-NAME", str(path), found, expected, "rename it or move it away"))
        elif key in into:
            raise _twice(key.case_id, into[key].path, path)
        else:
            into[key] = Source(role, path, path.relative_to(root).as_posix())


def _twice(case_id: str, first: Path, second: Path) -> UsageError:
    return UsageError(
        "E-CASE-TWICE",
        file=second,
        found=f"the case {case_id!r}, which {first} is too",
        expected="one file for each series, whatever the spelling and the format",
        fix="move one of them away",
    )


def _images(folder: Path) -> list[Path]:
    listed = folder.rglob("*") if folder.is_dir() else iter(())
    return sorted(path for path in _visible(listed, folder) if is_image(path) and not path.is_dir())


def _visible(paths: Iterable[Path], below: Path | None = None) -> list[Path]:
    """Leave out hidden files and what other systems leave behind, also in folders below `below`."""

    def shown(path: Path) -> bool:
        parts = path.relative_to(below).parts if below is not None else (path.name,)
        return not any(part.startswith(".") or part == _FOREIGN for part in parts)

    return [path for path in paths if shown(path)]


def _is_table(path: Path, word: str) -> bool:
    return path.suffix.lower() == ".csv" and word in path.name.lower()


def _natural(patient: str) -> tuple[int, str]:
    return (int(patient), "") if patient.isdigit() else (10**9, patient)
