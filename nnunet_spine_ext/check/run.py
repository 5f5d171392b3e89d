"""`nnUNetv2_spine_check`: the gatekeeper over files, folders, patterns and whole raw datasets."""

from __future__ import annotations

import glob
import logging
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from nnunet_spine_ext.check.facts import ROLES, ImageFacts, Role
from nnunet_spine_ext.check.geometry import Prefer, triple
from nnunet_spine_ext.check.images import inspect
from nnunet_spine_ext.check.rules import finding
from nnunet_spine_ext.check.soft_labels import FOLDERS as SOFT_FOLDERS
from nnunet_spine_ext.core.config import nearest
from nnunet_spine_ext.core.errors import EXIT_NO_INPUT, EXIT_OK, EXIT_SOME_FAILED, Problem, UsageError
from nnunet_spine_ext.core.io import is_image

Status = Literal["ok", "warning", "error"]
AUTO = "auto"
ROLE_CHOICES = (AUTO, *ROLES)

# nnU-Net's folder names say what a file is for.
_ROLE_OF_FOLDER: dict[str, Role] = {"imagesTr": "training", "labelsTr": "label", "labelsTs": "label"}
# These hold files that are neither images nor hard masks; a check of their dataset looks at them.
_SKIPPED_FOLDERS = set(SOFT_FOLDERS)

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CheckedItem:
    """One file, dataset or unusable path of a check: its one-line description, its problems and its facts as JSON."""

    path: Path
    line: str
    problems: tuple[Problem, ...]
    facts: dict[str, Any]

    @property
    def status(self) -> Status:
        """``error`` if it cannot be used, ``warning`` if there is something to know, else ``ok``."""
        found = {problem.severity for problem in self.problems}
        return "error" if "error" in found else "warning" if found else "ok"


@dataclass(frozen=True)
class CheckReport:
    """What `check` found, item by item."""

    items: list[CheckedItem] = field(default_factory=list)

    @property
    def exit_code(self) -> int:
        """0: no errors; 3: some files cannot be used; 4: none can."""
        bad = sum(item.status == "error" for item in self.items)
        if bad == len(self.items):
            return EXIT_NO_INPUT
        return EXIT_SOME_FAILED if bad else EXIT_OK

    def render(self) -> str:
        """Return a line for each item, a block for each problem and a summary."""
        lines = []
        for item in self.items:
            lines.append(f"{item.status:8}{item.line}")
            for problem in item.problems:
                lines.append(f"  {problem.severity} {problem.code}")
                elsewhere = problem.file if problem.file != str(item.path) else ""
                rows = (("file", elsewhere), ("found", problem.found), ("expected", problem.expected))
                lines += [f"    {name:9}{text}" for name, text in (*rows, ("do", problem.fix)) if text]
        count = Counter(item.status for item in self.items)
        total = f"{count['ok']} ok, {count['warning']} with warnings, {count['error']} with errors"
        lines.append(f"{len(self.items)} checked: {total}")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Return the same as plain JSON."""
        items = [{**item.facts, "status": item.status} for item in self.items]
        return {"items": items, "exit_code": self.exit_code}


def check(
    paths: Sequence[str | Path],
    *,
    role: str = AUTO,
    strict: bool = False,
    prefer: Prefer | None = None,
    jobs: int = 1,
) -> CheckReport:
    """Inspect files, the images in folders, patterns such as ``'data/*/t2.nii.gz'``, and nnU-Net raw datasets.

    Parameters
    ----------
    role: ``image``, ``training`` or ``label`` (see `inspect`); ``auto`` goes by nnU-Net's folder names and takes all
        other files for images.
    strict: warnings are errors.
    prefer: ``sform`` or ``qform`` where they disagree.
    jobs: files looked at at the same time.

    Raises
    ------
    UsageError: unknown role or form, or fewer than one job.
    """
    if role not in ROLE_CHOICES:
        raise UsageError(
            "E-CHECK-OPTION", file="--role", found=repr(role), expected="a role", fix=nearest(role, ROLE_CHOICES)
        )
    if jobs < 1:
        raise UsageError(
            "E-CHECK-OPTION", file="--jobs", found=str(jobs), expected="1 or more", fix="leave the option out"
        )

    def look(path: Path) -> CheckedItem:
        _log.debug("looking at %s", path)
        if os.path.isdir(path):  # noqa: PTH112
            return _dataset_item(path, strict) if _is_dataset(path) else _empty_folder(path)
        return _file_item(inspect(path, role=_role_of(path, role), strict=strict, prefer=prefer))

    found = list(dict.fromkeys(_expand(paths)))
    with ThreadPoolExecutor(jobs) as pool:  # zlib and numpy release the interpreter lock
        return CheckReport(list(pool.map(look, found)))


def _role_of(path: Path, role: str) -> Role:
    if role == AUTO:
        return _ROLE_OF_FOLDER.get(path.parent.name, "image")
    return next(known for known in ROLES if known == role)


def _expand(paths: Iterable[str | Path]) -> Iterator[Path]:
    """Yield files, raw dataset folders, and what does not exist or holds no image (reported later)."""
    for given in paths:
        text = str(given)
        if glob.has_magic(text) and not os.path.lexists(text):
            matches = sorted(glob.glob(text, recursive=True))  # noqa: PTH207 (Path.glob refuses absolute patterns)
            yield from (path for match in matches for path in _contents(Path(match)))
            if not matches:
                yield Path(text)
        else:
            yield from _contents(Path(text))


def _contents(path: Path) -> Iterator[Path]:
    # unlike Path.is_dir, this takes names that are too long for an answer
    if not os.path.isdir(path):  # noqa: PTH112
        yield path
        return
    empty = True
    for folder, folders, names in os.walk(path):
        here = Path(folder)
        if _is_dataset(here):
            folders.clear()
            empty = False
            yield here
            continue
        folders[:] = sorted(f for f in folders if not f.startswith(".") and f not in _SKIPPED_FOLDERS)
        for name in sorted(names):
            if is_image(name) and not name.startswith("."):
                empty = False
                yield here / name
    if empty:
        yield path


def _is_dataset(folder: Path) -> bool:
    return (folder / "dataset.json").is_file() and (folder / "imagesTr").is_dir()


def _file_item(facts: ImageFacts) -> CheckedItem:
    parts = ["x".join(map(str, facts.shape))]
    if facts.spacing is not None:
        parts += [f"{triple(facts.spacing)} mm", facts.orientation, facts.plane]
    parts.append(facts.dtype)
    if facts.voxels is not None and facts.voxels.count > facts.voxels.nonfinite:
        parts.append(f"{facts.voxels.minimum:.4g}..{facts.voxels.maximum:.4g}")
    described = "  ".join(part for part in parts if part)
    line = f"{facts.path}  {described}" if described else str(facts.path)
    return CheckedItem(facts.path, line, tuple(facts.problems), facts.to_dict())


def _empty_folder(path: Path) -> CheckedItem:
    problem = finding("E-IN-NOIMAGE", path, "a folder without images")
    return CheckedItem(path, str(path), (problem,), {"file": str(path), "problems": [problem.to_dict()]})


def _dataset_item(folder: Path, strict: bool) -> CheckedItem:
    from nnunet_spine_ext.check.datasets import inspect_dataset

    facts = inspect_dataset(folder)
    problems = [replace(p, severity="error") if strict else p for p in facts.problems]
    line = (
        f"{folder}  raw dataset: {len(facts.training)} training and {len(facts.test)} test cases, "
        f"{facts.subjects} subjects, {facts.folds} folds"
    )
    content = {
        "file": str(folder),
        "training": list(facts.training),
        "test": list(facts.test),
        "subjects": facts.subjects,
        "folds": facts.folds,
        "problems": [problem.to_dict() for problem in problems],
    }
    return CheckedItem(folder, line, tuple(problems), content)
