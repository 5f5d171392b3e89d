"""What a conversion did: for the console, for `--json` and for conversion.json."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from nnunet_spine_ext.core.cases import DatasetSpec
from nnunet_spine_ext.core.errors import EXIT_NO_INPUT, EXIT_OK, EXIT_SOME_FAILED, Problem
from nnunet_spine_ext.core.io import read_json
from nnunet_spine_ext.core.splits import Split, shorten

REPORT_FILE = "conversion.json"
_SHOWN = 20


@dataclass(frozen=True)
class Row:
    """One case as it was (or would be) written.

    `kind` is ``train``, ``unlabelled``, ``test`` or ``train only``; `voxels` counts the mask's voxels per class id.
    """

    case_id: str
    subject: str
    kind: str
    files: dict[str, str]
    voxels: dict[int, int]
    warnings: tuple[Problem, ...] = ()

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Row:
        """Return the row that `to_dict` described."""
        return cls(
            case_id=content["case"],
            subject=content["subject"],
            kind=content["kind"],
            files=dict(content["files"]),
            voxels={int(k): int(n) for k, n in content["voxels"].items()},
            warnings=tuple(Problem(**problem) for problem in content["warnings"]),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the row as plain JSON."""
        return {
            "case": self.case_id,
            "subject": self.subject,
            "kind": self.kind,
            "files": self.files,
            "voxels": {str(k): n for k, n in sorted(self.voxels.items())},
            "warnings": [problem.to_dict() for problem in self.warnings],
        }


@dataclass
class ConversionResult:
    """Outcome of a converter.

    Parameters
    ----------
    folder: where the dataset is, or would be in a dry run.
    written: whether it was written.
    options: what the user asked for, JSON values.
    rows: the cases used; `skipped`: why the others were not.
    notes: facts about the whole, for example what a label map merges.
    planned: whether nnU-Net has planned a dataset of this name before; it then keeps the old fingerprint.
    seconds: for each case that was opened in this run; `total_seconds`: for all of it.
    resumed: how many cases an earlier run had finished.
    roots: the folders in which the source files lie; conversion.json does not name them.
    """

    folder: Path
    options: dict[str, Any]
    written: bool = False
    dry_run: bool = False
    spec: DatasetSpec | None = None
    rows: list[Row] = field(default_factory=list)
    skipped: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    splits: list[Split] | None = None
    planned: bool = False
    seconds: dict[str, float] = field(default_factory=dict)
    total_seconds: float = 0.0
    resumed: int = 0
    roots: frozenset[str] = frozenset()

    @property
    def exit_code(self) -> int:
        """0: all cases used; 3: some skipped; 4: no labelled training case."""
        if not any(row.kind in ("train", "train only") for row in self.rows):
            return EXIT_NO_INPUT
        return EXIT_SOME_FAILED if self.skipped else EXIT_OK

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain JSON."""
        outcome = {"folder": str(self.folder), "written": self.written, "exit_code": self.exit_code}
        times = {
            "seconds": {case: round(seconds, 3) for case, seconds in self.seconds.items()},
            "total_seconds": round(self.total_seconds, 3),
            "resumed": self.resumed,
        }
        return outcome | self._content() | {"splits": self.splits} | times

    def recall(self, spec: DatasetSpec) -> None:
        """Fill in what an earlier run wrote in `folder`; `spec` as it was before the classes were known."""
        report, description = (read_json(self.folder / name) for name in (REPORT_FILE, "dataset.json"))
        facts = description["spine_ext"]
        labels = {name: number for name, number in report["labels"].items() if number}
        sided = tuple((left, right) for left, right in facts["sided_labels"])
        self.spec = replace(spec, labels=labels, scheme=facts["scheme"], sided_labels=sided)
        self.rows = [Row.from_dict(row) for row in report["used"]]
        self.skipped = [Problem(**problem) for problem in report["skipped"]]
        self.notes = report["notes"]
        splits = self.folder / "splits_final.json"
        self.splits = read_json(splits) if splits.is_file() else None
        self.written, self.resumed = True, len(self.rows)

    def record(self) -> dict[str, Any]:
        """Return what conversion.json holds: no times and no places, so that equal input gives equal bytes.

        Names of folders tell who works on which machine, and a dataset is passed on.
        """
        return {key: without_folders(value, self.roots) for key, value in self._content().items()}

    def _content(self) -> dict[str, Any]:
        from nnunet_spine_ext import __version__

        spec = self.spec
        return {
            "version": 1,
            "nnunet_spine_ext": __version__,
            "options": self.options,
            "dataset": None if spec is None else spec.folder_name,
            "labels": None if spec is None else {"background": 0, **spec.foreground},
            "notes": self.notes,
            "used": [row.to_dict() for row in self.rows],
            "skipped": [problem.to_dict() for problem in self.skipped],
        }

    def render(self) -> str:
        """Return the report for the console."""
        lines = self._head() if self.rows else [f"{self.folder.name}: no usable case"]
        lines += [f"  note: {note}" for note in self.notes] + self._cases()
        told = [(row.case_id, problem) for row in self.rows for problem in row.warnings]
        warnings = [
            f"WARNING {problem}" if problem.file == case else f"WARNING {case}: {problem}" for case, problem in told
        ]
        lines += _capped(warnings)
        lines += [f"SKIPPED {problem}" for problem in self.skipped]
        lines.append(self._last())
        return "\n".join(lines)

    def _head(self) -> list[str]:
        kinds = Counter(row.kind for row in self.rows)
        subjects = len({row.subject for row in self.rows})
        counts = ", ".join(f"{n} {kind}" for kind, n in sorted(kinds.items()))
        lines = [f"{self.folder.name}: {len(self.rows)} case(s) of {subjects} subject(s): {counts}"]
        if self.spec is not None:
            classes = ", ".join(f"{number} {name}" for name, number in self.spec.foreground.items())
            ignored = f", {self.spec.ignore_id} ignore" if self.spec.ignore_id is not None else ""
            channels = ", ".join(self.spec.channel_names.values())
            lines.append(f"  channels: {channels}; classes: {classes}{ignored}")
        if self.splits is not None:
            sizes = ", ".join(str(len(split["val"])) for split in self.splits)
            wanted = int(self.options.get("folds", 0))
            fewer = f" ({wanted} asked for: too few subjects)" if len(self.splits) < wanted else ""
            lines.append(f"  {len(self.splits)} folds by subject{fewer}, validated cases per fold: {sizes}")
        return lines

    def _cases(self) -> list[str]:
        if not self.dry_run:
            return []
        return [
            f"  {row.case_id}  subject {row.subject}  {row.kind}  " + ", ".join(row.files.values()) for row in self.rows
        ]

    def _last(self) -> str:
        counts = f"{len(self.rows)} used, {len(self.skipped)} skipped{self._time()}"
        if self.exit_code == EXIT_NO_INPUT:
            return f"{counts}; nothing was written: no labelled training case"
        if self.dry_run:
            return f"{counts}; dry run: nothing was written, {self.folder} would be"
        number = "" if self.spec is None else self.spec.dataset_id
        clean = " --clean" if self.planned else ""
        return (
            f"{counts}; written to {self.folder}\nnext: nnUNetv2_plan_and_preprocess -d {number} -c 3d_fullres{clean}"
        )

    def _time(self) -> str:
        before = f" ({self.resumed} finished before)" if self.resumed else ""
        if not self.seconds:
            return before
        mean = sum(self.seconds.values()) / len(self.seconds)
        return f"{before}, {self.total_seconds:.1f} s ({mean:.2f} s per case)"


def without_folders(value: Any, roots: Collection[str]) -> Any:
    """Return JSON values with the `roots` cut off all paths; other absolute paths keep their last part.

    Only texts that are paths as a whole are recognised as such; roots are found anywhere.
    """
    if isinstance(value, Mapping):
        return {key: without_folders(part, roots) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [without_folders(part, roots) for part in value]
    if not isinstance(value, str):
        return value
    for root in sorted((root for root in roots if root), key=len, reverse=True):
        inside = rf"(?<![\w./-]){re.escape(root)}"
        value = re.sub(rf"{inside}/+(?=[^\s/,;:'\")])", "", value)
        # A relative root may be a word like any other.
        value = re.sub(rf"{inside}/*(?![\w./-])", ".", value) if root.startswith("/") else value
    return Path(value).name if value.startswith(("/", "~")) and ": " not in value else value


def _capped(lines: list[str]) -> list[str]:
    more = len(lines) - _SHOWN
    return lines if more <= 0 else [*lines[:_SHOWN], f"... and {more} more warnings in conversion.json"]


def names_of(rows: Iterable[Row]) -> str:
    """Join case ids for a message."""
    return shorten([row.case_id for row in rows])
