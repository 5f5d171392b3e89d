"""SPIDER (lumbar MRI with masks of vertebrae, discs and canal) as an nnU-Net raw dataset; series as cases."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from nnunet_spine_ext.core import spider as numbering
from nnunet_spine_ext.core.config import nearest
from nnunet_spine_ext.core.errors import UsageError
from nnunet_spine_ext.core.splits import shorten
from nnunet_spine_ext.dataset_conversion.conversion import Rules, Target, convert, nnunet_folders
from nnunet_spine_ext.dataset_conversion.discovery import Candidate, Source
from nnunet_spine_ext.dataset_conversion.report import ConversionResult
from nnunet_spine_ext.dataset_conversion.spider_cases import CaseBuilder
from nnunet_spine_ext.dataset_conversion.spider_files import (
    SERIES_NAMES,
    SeriesKey,
    SpiderFiles,
    find_files,
    find_subregions,
    find_table,
)
from nnunet_spine_ext.dataset_conversion.spider_tables import (
    Column,
    Gradings,
    Overview,
    read_columns,
    read_gradings,
    read_names,
    read_overview,
    unmatched,
)
from nnunet_spine_ext.dataset_conversion.spider_targets import (
    END_MARGIN_MM,
    ENDPLATE_MARGIN_MM,
    TARGETS,
    PartlyVisible,
    Recipe,
    TargetName,
)

CHANNELS = ("MRI",)
LICENCE = "CC BY 4.0"


@dataclass
class _Tables:
    """What the tables say, and what is to be said about them."""

    overview: Overview = field(default_factory=Overview)
    gradings: Gradings = field(default_factory=Gradings)
    columns: dict[str, Column] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Choice:
    """What the options say about single cases: the usual spine, masks with parts, who is tested on."""

    usual: Column
    parts: Mapping[str, Source]
    test: Collection[str]
    allow_model_labels: bool


def spider(
    source: str | Path,
    dataset_id: int,
    *,
    name: str = "SPIDER",
    target: TargetName = "semantic",
    series: Sequence[str] = (),
    level_order: numbering.LevelOrder = "bottom-up",
    levels: int = numbering.USUAL_LEVELS,
    lowest: str = numbering.LOWEST,
    lowest_table: str | Path | None = None,
    partly_visible: PartlyVisible = "keep",
    subregions: str | Path | None = None,
    allow_model_labels: bool = False,
    endplate_margin: float = ENDPLATE_MARGIN_MM,
    end_margin: float = END_MARGIN_MM,
    header_tolerance: float | None = None,
    test_patients: Sequence[str] = (),
    test_subset: str | None = None,
    strict: bool = False,
    folds: int = 5,
    overwrite: bool = False,
    dry_run: bool = False,
    resume: bool = False,
    raw: str | Path | None = None,
    preprocessed: str | Path | None = None,
    description: str = "",
    licence: str = LICENCE,
) -> ConversionResult:
    """Convert a SPIDER folder to an nnU-Net raw dataset; all series of a patient are on one side of every split.

    Parameters
    ----------
    source: the folder that holds ``images``, ``masks`` and the two tables.
    dataset_id, name: the dataset becomes ``Dataset<id>_<name>``.
    target: classes; see `spider_targets`.
    series: ``t1``, ``t2``, ``t2_SPACE``; none: all.
    level_order: from which end the masks count their levels.
    levels: levels of the class list of the target ``levels``.
    lowest: name of every mask's lowest vertebra; `lowest_table`: a CSV file with who has another one.
    partly_visible: ``keep`` or ``ignore`` partly visible vertebrae.
    subregions: folder of semantic masks made by a model, for the target ``nnunet14``.
    allow_model_labels: validate and test against masks with parts made by a model too.
    endplate_margin, end_margin: mm, for the target ``nnunet14``; see `spider_targets.Recipe`.
    header_tolerance: mm by which the headers of image and mask may differ; None: one voxel.
    test_patients: names, or files with one name per line, of who goes to imagesTs and labelsTs.
    test_subset: a subset of the overview table (such as ``validation``) whose patients do.
    strict: treat every warning about a file as an error.
    overwrite, dry_run, resume: replace the dataset; write nothing; go on where an interrupted run stopped.
    raw, preprocessed: instead of nnUNet_raw and nnUNet_preprocessed.

    Raises
    ------
    UsageError: an option that does not fit, a wrong table, a patient on both sides; see also `convert`.
    NoInputError: nothing to convert.
    SetupError: nnU-Net's folders are not known.
    """
    recipe = Recipe(target, levels, partly_visible, endplate_margin, end_margin)
    usual = Column(lowest)
    _check_options(recipe, series, level_order, usual, subregions, header_tolerance)
    folders = nnunet_folders(raw, preprocessed)
    wanted = Target(dataset_id, name, CHANNELS, *folders, folds, overwrite, description, licence, ignore=recipe.ignores)
    files = find_files(source)
    keys = [key for key in files.keys() if not series or key.series in series]  # noqa: SIM118 - a method of ours
    tables = _read_tables(files, source, keys, usual, lowest_table)
    test = _test_patients(test_patients, test_subset, keys, tables.overview)
    parts = find_subregions(subregions, [key.case_id for key in keys]) if subregions is not None else {}
    choice = _Choice(usual, parts, test, allow_model_labels)
    gaps = {key: gap for key in keys if (gap := files.missing(key)) is not None}
    cases = [_candidate(key, files, tables, choice) for key in keys if key not in gaps]
    options: dict[str, Any] = {"converter": "spider", **asdict(recipe), "series": list(series)}
    options |= {"level_order": level_order, "lowest": lowest, "lowest_table": _path(lowest_table)}
    options |= {"subregions": _path(subregions), "allow_model_labels": allow_model_labels, "strict": strict}
    options |= {"test_subset": test_subset, "test_patients": sorted(test), "header_tolerance": header_tolerance}
    return convert(
        cases, [*files.strange, *gaps.values()], recipe.labels, wanted,
        rules=Rules(strict=strict), options=options | {"folds": folds}, dry_run=dry_run, resume=resume,
        build=CaseBuilder(recipe, level_order, usual, tables.columns, header_tolerance),
        notes=tables.notes if subregions is None else [*tables.notes, *_notes_on_parts(parts, cases)],
    )  # fmt: skip


def _check_options(
    recipe: Recipe,
    series: Sequence[str],
    level_order: str,
    usual: Column,
    subregions: str | Path | None,
    header_tolerance: float | None,
) -> None:
    """Raise UsageError for options that mean nothing."""
    choices = [("--target", recipe.target, TARGETS), ("--partly-visible", recipe.partly_visible, ("keep", "ignore"))]
    choices += [("--series", word, SERIES_NAMES) for word in series]
    for option, value, known in choices:
        if value not in known:
            raise _usage(option, repr(value), "a known one", nearest(value, known))
    numbering.check_order(level_order)
    usual.upwards()
    if not 1 <= recipe.levels <= numbering.MAX_LEVEL:
        raise _usage("--levels", str(recipe.levels), f"1 to {numbering.MAX_LEVEL}", "10 is usual")
    if subregions is not None and recipe.target != "nnunet14":
        raise _usage("--subregions", f"with --target {recipe.target}", "--target nnunet14", "change one of the two")
    margins = {"--endplate-margin": recipe.endplate_margin, "--end-margin": recipe.end_margin}
    for option, length in (margins | {"--header-tolerance": header_tolerance}).items():
        if length is not None and not 0 <= length < float("inf"):
            raise _usage(option, str(length), "0 mm or more", "leave it out for what is usual")


def _read_tables(
    files: SpiderFiles, source: str | Path, keys: Iterable[SeriesKey], usual: Column, lowest_table: str | Path | None
) -> _Tables:
    """Read the tables that are there; a missing one, and rows that belong to nothing, become notes."""
    tables = _Tables()
    everything = set(files.keys())
    everybody = {key.patient for key in everything}
    overview, gradings = (find_table(files, source, word) for word in ("overview", "grading"))
    if overview is not None:
        tables.overview = read_overview(overview)
        strangers = [key.case_id for key in tables.overview.facts if key not in everything]
        tables.notes += map(str, [*tables.overview.warnings, *unmatched(overview, strangers, "series")])
        without = [key.case_id for key in keys if key not in tables.overview.facts]
        tables.notes += [f"{overview.name} has no row for {shorten(without)}"] if without else []
    else:
        tables.notes.append("no overview.csv: sex, age, scanner and subset of the patients are not known")
    if gradings is not None:
        tables.gradings = read_gradings(gradings)
        strangers = [patient for patient in tables.gradings.discs if patient not in everybody]
        tables.notes += map(str, [*tables.gradings.warnings, *unmatched(gradings, strangers, "patients")])
    else:
        tables.notes.append("no radiological_gradings.csv: the discs have no gradings")
    if lowest_table is not None:
        tables.columns = read_columns(lowest_table, usual)
        strangers = [patient for patient in tables.columns if patient not in everybody]
        tables.notes += map(str, unmatched(Path(lowest_table), strangers, "patients"))
    return tables


def _test_patients(words: Sequence[str], subset: str | None, keys: Iterable[SeriesKey], overview: Overview) -> set[str]:
    """Return who is tested on; raises UsageError for unknown patients and for patients on both sides."""
    listed = list(keys)
    patients = {key.patient for key in listed}
    named = read_names(list(words))
    unknown = [patient for patient in named if patient not in patients]
    if unknown:
        raise UsageError(
            "E-PAIR-SUBJECT",
            file="--test-patients",
            found=f"patients that are not there: {shorten(unknown)}",
            expected="patients with a series in images and masks",
            fix=nearest(unknown[0], patients) if len(patients) <= 20 else "correct the list",
        )
    if subset is None:
        return set(named)
    by_subset: dict[str, set[str]] = {}
    for key in listed:
        by_subset.setdefault(overview.subset_of(key), set()).add(key.patient)
    inside = by_subset.get(subset.lower(), set())
    if not inside:
        known = sorted(name for name in by_subset if name)
        fix = nearest(subset, known) if known else "the column subset of overview.csv is needed"
        raise _usage("--test-subset", f"{subset!r}, which no patient has", "a subset of overview.csv", fix)
    # A series without a row goes with the others of its patient.
    others = set().union(*(group for name, group in by_subset.items() if name not in ("", subset.lower())))
    if inside & others:
        raise UsageError(
            "E-SPLIT-TEST",
            file="--test-subset",
            found=f"patients with series in {subset} and in another subset: {shorten(sorted(inside & others))}",
            expected="all series of a patient on one side",
            fix="correct the column subset, or name the patients with --test-patients",
        )
    return set(named) | inside


def _candidate(key: SeriesKey, files: SpiderFiles, tables: _Tables, choice: _Choice) -> Candidate:
    """Return a complete series as a case; parts made by a model are not tested on unless that is allowed."""
    column = tables.columns.get(key.patient, choice.usual)
    info: dict[str, Any] = {"contrast": key.contrast, "series": key.series, **tables.overview.facts.get(key, {})}
    gradings = tables.gradings.of(key.patient, column)
    info |= column.facts() | ({"gradings": gradings} if gradings else {})
    extra = choice.parts.get(key.case_id)
    if key.patient in choice.test and not choice.allow_model_labels:
        extra = None
    info["label_source"] = "reference" if extra is None else "model"
    return Candidate(
        case_id=key.case_id,
        subject=key.patient,
        images=(files.images[key],),
        label=files.masks[key],
        info=info,
        test=key.patient in choice.test,
        train_only=extra is not None and not choice.allow_model_labels,
        extras=() if extra is None else (extra,),
    )


def _notes_on_parts(parts: Mapping[str, Source], cases: Iterable[Candidate]) -> list[str]:
    listed = list(cases)
    without = [case.case_id for case in listed if case.case_id not in parts]
    withheld = [case.case_id for case in listed if case.case_id in parts and not case.extras]
    notes = [f"--subregions has no mask for {shorten(without)}: their vertebrae are ignored"] if without else []
    if withheld:
        text = "test cases keep the labels of SPIDER alone (--allow-model-labels changes that)"
        notes.append(f"{text}: {shorten(withheld)}")
    if any(case.train_only for case in listed):
        notes.append("cases with parts made by a model are trained on, never validated (--allow-model-labels)")
    return notes


def _path(path: str | Path | None) -> str | None:
    return None if path is None else str(path)


def _usage(option: str, found: str, expected: str, fix: str) -> UsageError:
    return UsageError("E-SPIDER-OPTION", file=option, found=found, expected=expected, fix=fix)
