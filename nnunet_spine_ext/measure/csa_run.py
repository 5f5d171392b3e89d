"""Cross-sectional area of one file or a folder of cases, as one table."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_spine_ext import __version__
from nnunet_spine_ext.check.geometry import Prefer
from nnunet_spine_ext.core.errors import CaseError, Problem, SetupError, UsageError
from nnunet_spine_ext.core.io import write_bytes, write_json
from nnunet_spine_ext.core.labels import vertebra_name
from nnunet_spine_ext.core.summary import RunSummary
from nnunet_spine_ext.core.volume import Volume
from nnunet_spine_ext.measure.cord_line import SMOOTHING
from nnunet_spine_ext.measure.cross_section import CrossSection, check_options, cross_sectional_area
from nnunet_spine_ext.measure.csa_files import CaseFiles, find_cases
from nnunet_spine_ext.measure.csa_levels import LevelSections, average_levels, parse_levels
from nnunet_spine_ext.measure.csa_picture import section_picture
from nnunet_spine_ext.measure.csa_reading import open_class, open_volume
from nnunet_spine_ext.measure.csa_table import csv_text
from nnunet_spine_ext.measure.levels import Levels, levels_from_discs, levels_from_instances, levels_from_points
from nnunet_spine_ext.measure.numbered import is_numbered
from nnunet_spine_ext.measure.points import read_points

_logger = logging.getLogger(__name__)
_RECORD_VERSION = 1
_POINTS = ".json"


@dataclass
class CsaRun(RunSummary):
    """What became of each case, and its table (per slice or per level)."""

    tables: dict[str, CrossSection | LevelSections] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    notes: dict[str, list[str]] = field(default_factory=dict)

    def csv(self, path: Path | None = None) -> str:
        """Return all tables as one, the case in the first column, and write it if a path is given."""
        cases = sorted(self.tables)
        fronts = [{"case": case} for case in cases]
        return csv_text([self.tables[case].columns() for case in cases], path, before=fronts)

    def to_dict(self) -> dict[str, Any]:
        """Return what happened as plain JSON; no times: equal input, equal bytes."""
        rows = {case: len(table) for case, table in sorted(self.tables.items())}
        return {"version": _RECORD_VERSION, **self.facts, "rows": rows, "notes": self.notes, **super().to_dict()}


def csa(
    i: str | Path,
    o: str | Path,
    *,
    mode: str = "sct",
    label: int | None = None,
    soft_class: int | None = None,
    levels: str | Path | None = None,
    discs: str | Path | None = None,
    instances: str | Path | None = None,
    centreline: str | Path | None = None,
    smoothing: float = SMOOTHING,
    no_angle_correction: bool = False,
    perlevel: bool = False,
    level_range: str | None = None,
    ddof: int = 0,
    area_only: bool = False,
    qc: str | Path | None = None,
    prefer: Prefer | None = None,
    strict: bool = False,
    dry_run: bool = False,
) -> CsaRun:
    """Measure the cord of one file or of every file in a folder; write one CSV and, beside it, a JSON record.

    Parameters
    ----------
    i: a mask, soft map or label map, or a folder of them.
    o: the CSV file. Its JSON record has the same name with ``.json``.
    mode, label, smoothing: see `cross_sectional_area`.
    soft_class: which class of soft maps of several (i, j, k, class) is the cord, counted from 1.
    levels: labelled cords (file, or folder with the same case names).
    discs: discs: volumes of single voxels with the toolbox' numbers, or point files (.json) of vertebrae and discs.
    instances: numbered instances. At most one of these three.
    centreline: masks of the centreline or of another cord.
    no_angle_correction: measure in the plane of the slices.
    perlevel: a row per level instead of per slice.
    level_range: levels to average (``2:3``, ``C2:C3``): one row for all of them, with `perlevel` one for each.
    ddof: 0 or 1, of the standard deviation over slices.
    area_only: leave out diameters, eccentricity, orientation and solidity, which take most of the time.
    qc: folder for a picture per case: area along the cord.
    prefer: "sform" or "qform", for files in which the two disagree.
    strict: treat warnings about files as errors.
    dry_run: find and read nothing but names; say what would be measured.

    Raises
    ------
    UsageError: wrong options, or files that do not belong together.
    NoInputError: no file.
    SetupError: the table cannot be written.
    """
    options = {key: value for key, value in locals().items() if key not in ("i", "o", "dry_run")}
    check_options(mode, smoothing)
    _check_grouping(options)
    if level_range:
        parse_levels(level_range)
    out, cases = (
        Path(o),
        find_cases(Path(i), Path(o), levels=levels, discs=discs, instances=instances, centreline=centreline),
    )
    kind = "per level" if perlevel else f"over {level_range}" if level_range else "per slice"
    title = f"{out}: {'would measure' if dry_run else 'cord area'} {kind}, mode {mode}, {len(cases)} cases"
    written = {key: str(value) if isinstance(value, Path) else value for key, value in options.items()}
    run = CsaRun(title=title, facts={"software": __version__, "input": str(i), "options": written})
    if dry_run:
        run.skipped = [one.case for one in cases]
        return run
    _measure_all(run, cases, options, out)
    _write(run, out)
    return run


def _measure_all(run: CsaRun, cases: list[CaseFiles], options: dict[str, Any], out: Path) -> None:
    wanted = parse_levels(options["level_range"]) if options["level_range"] else None
    grouped = options["perlevel"] or wanted is not None
    qc = options["qc"]
    for one in _progress(cases):
        try:
            section, problems = _measure(one, options)
            run.warn(one.case, *problems)
            if section.notes:
                run.notes[one.case] = list(section.notes)
                run.warn(one.case, *(_note(one.files["i"], text) for text in section.notes))
            run.tables[one.case] = (
                average_levels(section, wanted, pooled=not options["perlevel"], ddof=options["ddof"])
                if grouped
                else section
            )
            if wanted is not None and (absent := _absent(section, wanted)):
                run.warn(one.case, _note(one.files["i"], absent))
            if qc is not None:
                write_bytes(Path(qc) / f"{one.case}.png", section_picture(section, one.case))
            run.done.append(one.case)
        except CaseError as error:
            run.tables.pop(one.case, None)
            run.fail(one.case, error.problem())
        except OSError as error:
            raise _unwritable(Path(qc or out), error) from error
        except Exception as error:
            run.tables.pop(one.case, None)
            run.fail(one.case, _unexpected(one, error))


def _absent(section: CrossSection, wanted: list[int]) -> str:
    """Return which of the levels asked for have no slice, in words; nothing if all have one."""
    missing = [level for level in wanted if not np.any((section.level == level) & np.isfinite(section.area))]
    return f"no slice of {', '.join(map(vertebra_name, missing))}" if missing and len(section) else ""


def _unexpected(one: CaseFiles, error: Exception) -> Problem:
    _logger.error("%s: unexpected error", one.case, exc_info=error)
    return Problem.unexpected(error, one.files.get("i", one.case), "areas")


def _progress(cases: list[CaseFiles]) -> Iterator[CaseFiles]:
    from tqdm import tqdm

    return iter(tqdm(cases, desc="cord area", unit="case", disable=None))


def _check_grouping(options: dict[str, Any]) -> None:
    sources = [name for name in ("levels", "discs", "instances") if options[name] is not None]
    if len(sources) > 1:
        raise _usage(f"--{' and --'.join(sources)}", "one source of levels", "leave out all but one")
    if (options["perlevel"] or options["level_range"]) and not sources:
        raise _usage("--perlevel or --level-range alone", "a source of levels", "add --levels, --discs or --instances")
    if options["soft_class"] is not None and options["soft_class"] < 1:
        raise _usage(f"--class {options['soft_class']}", "1 or more", "classes are counted from 1")
    if options["soft_class"] is not None and options["label"] is not None:
        raise _usage("--class and --label", "one of them", "--class is for soft maps, --label for label maps")
    if options["ddof"] not in (0, 1):
        raise _usage(f"--ddof {options['ddof']}", "0 or 1", "0 is the Spinal Cord Toolbox' choice")


def _measure(one: CaseFiles, options: dict[str, Any]) -> tuple[CrossSection, list[Problem]]:
    if one.problem is not None:
        raise one.problem
    problems: list[Problem] = []

    def read(name: str) -> Volume:
        volume, found = open_volume(one.files[name], prefer=options["prefer"], strict=options["strict"])
        problems.extend(found)
        return volume

    try:
        number = options["soft_class"]
        if number is None:
            cord = read("i")
        else:
            cord, found = open_class(one.files["i"], number, prefer=options["prefer"], strict=options["strict"])
            problems += found
        section = cross_sectional_area(
            cord,
            mode=options["mode"],
            levels=_levels(one, cord, read),
            label=options["label"],
            centreline=read("centreline") if "centreline" in one.files else None,
            smoothing=options["smoothing"],
            angle_correction=not options["no_angle_correction"],
            form=not options["area_only"],
        )
    except CaseError as error:
        if error.file:
            raise
        raise CaseError(
            error.code, file=one.files["i"], found=error.found, expected=error.expected, fix=error.fix
        ) from error
    return section, problems


def _levels(one: CaseFiles, cord: Volume, read: Any) -> Levels | Volume | None:
    if "levels" in one.files:
        return read("levels")
    if "instances" in one.files:
        path = one.files["instances"]
        if not is_numbered(path.parent.parent, one.case):
            raise CaseError(
                "E-CSA-UNNUMBERED",
                file=path,
                found="instances that are counted from the top, not numbered",
                expected="anatomical numbers",
                fix="number them, or give --discs",
            )
        return levels_from_instances(read("instances"))
    if "discs" in one.files:
        path = one.files["discs"]
        if path.name.lower().endswith(_POINTS):
            return levels_from_points(read_points(path, cord))
        return levels_from_discs(read("discs"))
    return None


def _note(path: Path, text: str) -> Problem:
    return Problem("warning", "W-CSA-NOTE", str(path), text, "a cord without this", "look at the case")


def _write(run: CsaRun, out: Path) -> None:
    try:
        if run.tables:
            run.csv(out)
        elif out.with_suffix(".json").is_file():
            # The table of an earlier run, which left this record, would be taken for that of this one.
            out.unlink(missing_ok=True)
        write_json(out.with_suffix(".json"), run.to_dict())
    except OSError as error:
        raise _unwritable(out, error) from error


def _unwritable(path: Path, error: OSError) -> SetupError:
    return SetupError(
        "E-OUT-WRITE",
        file=path,
        found=f"cannot be written ({error.strerror or error})",
        expected="room on the disk and the right to write",
        fix="free space or change the permissions, then run again",
    )


def _usage(found: str, expected: str, fix: str) -> UsageError:
    return UsageError("E-CSA-OPTION", found=found, expected=expected, fix=fix)
