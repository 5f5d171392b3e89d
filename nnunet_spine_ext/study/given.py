"""Images of your own: the scanners are domains that `cases.json` names, or are simulated on images of the source."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from nnunet_spine_ext.core.config import nearest
from nnunet_spine_ext.core.dataset import CASES_FILE
from nnunet_spine_ext.core.errors import CaseError, NoInputError, UsageError
from nnunet_spine_ext.core.io import read_json
from nnunet_spine_ext.study.conditions import SOURCE, Condition, conditions, refuse_equal_keys
from nnunet_spine_ext.study.config import GivenData, StudyConfig, digest
from nnunet_spine_ext.study.images import Images
from nnunet_spine_ext.study.index import INDEX, StudyCase, write_index
from nnunet_spine_ext.study.reacquire import reacquire
from nnunet_spine_ext.study.steps import Step

logger = logging.getLogger(__name__)
_FOLDER = "data/test/0000"
_PART = 4
_SIMULATE_S = 4.0
_SHOWN = 5


def given_images(config: StudyConfig, study: Path) -> Images:
    """Return the images of a given dataset.

    Raises
    ------
    NoInputError: no dataset, no cases.json, no images. UsageError: images without a reference mask or a domain, an
        unknown source, a single domain.
    """
    data = config.given
    if data is None:
        msg = "no given data"
        raise RuntimeError(msg)
    cases = _cases(data)
    if data.simulate:
        return _simulated(config, study, cases)
    refuse_equal_keys(
        list(dict.fromkeys(case.condition for case in cases)), f"{Path(data.dataset) / CASES_FILE}, {data.domain}"
    )
    domains = list(dict.fromkeys(case.condition.scanner for case in cases))
    source = _source(data, domains)
    conditions_ = tuple(sorted({case.condition for case in cases}, key=lambda c: (c != source, c.scanner)))
    cases = [replace(case, condition=source) if case.condition.scanner == source.scanner else case for case in cases]
    ordered = (source, *(c for c in conditions_ if c.scanner != source.scanner))
    arguments = {"study": str(study), "cases": cases}
    step = Step(
        "list the images", list_cases, arguments, [asdict(case) for case in cases], (), 1.0, (f"{_FOLDER}/{INDEX}",),
        optional=False,
    )  # fmt: skip
    most = max(sum(case.condition.key == c.key for case in cases) for c in ordered)
    return Images(study, ordered, source, (step,), (_FOLDER,), most, all(case.instances for case in cases))


def list_cases(study: str | Path, cases: Sequence[StudyCase]) -> None:
    """Write the index of images that are taken as they are."""
    folder = Path(study) / _FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    write_index(folder, cases)


def _simulated(config: StudyConfig, study: Path, cases: Sequence[StudyCase]) -> Images:
    chosen = tuple(conditions(config))
    steps, folders = [], []
    for first in range(0, len(cases), _PART):
        some = [replace(case, condition=SOURCE) for case in cases[first : first + _PART]]
        folder = f"data/test/{first:04d}"
        arguments = {"study": str(study), "folder": folder, "cases": some, "conditions": list(chosen)}
        facts = {"cases": [asdict(case) for case in some], "conditions": [asdict(c) for c in chosen]}
        weight = _SIMULATE_S * len(some) * len(chosen)
        name = f"simulate scanners {first + 1} to {first + len(some)}"
        steps.append(Step(name, reacquire, arguments, facts, (), weight, (f"{folder}/{INDEX}",), optional=False))
        folders.append(folder)
    every = all(case.instances for case in cases)
    return Images(study, chosen, SOURCE, tuple(steps), tuple(folders), len(cases), every)


def _cases(data: GivenData) -> list[StudyCase]:
    folder = Path(data.dataset)
    try:
        table: Mapping[str, Any] = read_json(folder / CASES_FILE)["cases"]
    except (CaseError, KeyError, TypeError) as error:
        raise NoInputError(
            "E-STUDY-DATA",
            file=folder / CASES_FILE,
            found=_why(error, folder / CASES_FILE),
            expected="a raw dataset with cases.json, as nnUNetv2_spine_convert writes it",
            fix="convert the data, or correct given.dataset",
        ) from error
    images = folder / f"images{data.part}"
    names = sorted({path.name[: -len("_0000.nii.gz")] for path in images.glob("*_0000.nii.gz")})
    if not names:
        raise NoInputError(
            "E-STUDY-DATA", file=images, found="no images", expected="CASE_0000.nii.gz", fix="correct given.part"
        )
    _complete(folder, data, names, table)
    ignore = _labels(folder).get("ignore")
    return _alike([replace(_case(folder, data, name, table[name]), ignore=ignore) for name in names])


def _why(error: Exception, table: Path) -> str:
    if not table.is_file():
        return "no such file" if table.parent.is_dir() else "no such folder"
    return error.found if isinstance(error, CaseError) else "no table of cases"


def _alike(cases: list[StudyCase]) -> list[StudyCase]:
    """Return the cases without their instance masks where some have none: one study has one kind of Dice.

    Vertebrae are not predicted then, and nothing may be scored against them.
    """
    without = [case.case for case in cases if not case.instances]
    if not without or len(without) == len(cases):
        return cases
    more = f" and {len(without) - _SHOWN} more" if len(without) > _SHOWN else ""
    logger.warning("no instance mask of %s%s: dice is the mean over the classes", ", ".join(without[:_SHOWN]), more)
    return [replace(case, instances="") for case in cases]


def _complete(folder: Path, data: GivenData, names: Sequence[str], table: Mapping[str, Any]) -> None:
    """Raise UsageError naming the cases that cannot be studied."""
    labels = folder / f"labels{data.part}"
    known = [name for name in names if name in table]
    rules = [
        ("no reference mask", labels, [n for n in names if not (labels / f"{n}.nii.gz").is_file()]),
        ("no reference mask but the ignore label", labels, [n for n in known if table[n].get("labelled") is False]),
        ("no entry", folder / CASES_FILE, [n for n in names if n not in table]),
    ]
    if not data.simulate:
        silent = [n for n in known if _domain(data, table[n]) is None]
        _refuse_unknown_key(folder, data, [table[n] for n in known], silent)
        rules.append((f"no {data.domain}", folder / CASES_FILE, silent))
    for what, where, missing in rules:
        if missing:
            more = f" and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
            raise UsageError(
                "E-STUDY-DATA",
                file=where,
                found=f"{what} of {', '.join(missing[:_SHOWN])}{more}",
                expected="a reference mask and a scanner for every image",
                fix="add them, or put only the other images into the dataset",
            )


def _refuse_unknown_key(
    folder: Path, data: GivenData, rows: Sequence[Mapping[str, Any]], silent: Sequence[str]
) -> None:
    """Raise UsageError where a key that tells scanners apart stands in no case: it is misspelt, not missing."""
    there = sorted({key for row in rows for key in row})
    strange = [key for key in map(str.strip, data.domain.split("+")) if key not in there]
    if rows and len(silent) == len(rows) and strange:
        raise UsageError(
            "E-STUDY-DOMAINS",
            file=folder / CASES_FILE,
            found=f"no case with {' or '.join(map(repr, strange))}",
            expected="keys of cases.json that tell scanners apart",
            fix=f"correct given.domain; {nearest(strange[0], there)}",
        )


def _case(folder: Path, data: GivenData, name: str, row: Mapping[str, Any]) -> StudyCase:
    paths = sorted((folder / f"images{data.part}").glob(f"{name}_[0-9][0-9][0-9][0-9].nii.gz"))
    label = folder / f"labels{data.part}" / f"{name}.nii.gz"
    instances = folder / f"instances{data.part}" / f"{name}.nii.gz"
    used = [*paths, label, *([instances] if instances.is_file() else [])]
    return StudyCase(
        case=name,
        subject=str(row.get("subject", name)),
        condition=Condition("" if data.simulate else str(_domain(data, row))),
        images=tuple(str(path.resolve()) for path in paths),
        semantic=str(label.resolve()),
        instances=str(instances.resolve()) if instances.is_file() else "",
        region=str(row.get("region", "")),
        facts={key: value for key, value in row.items() if key != "sources"},
        digest=digest([(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in used]),
    )


def _domain(data: GivenData, row: Mapping[str, Any]) -> str | None:
    """Return what a case says about its scanner; None when it does not."""
    values = [row.get(key.strip()) for key in data.domain.split("+")]
    return None if any(value in (None, "") for value in values) else " ".join(str(value) for value in values)


def _source(data: GivenData, domains: Sequence[str]) -> Condition:
    where = Path(data.dataset) / CASES_FILE
    if len(domains) < 2:
        raise UsageError(
            "E-STUDY-DOMAINS",
            file=where,
            found=f"a single {data.domain}: {', '.join(domains)}",
            expected="images of at least two scanners",
            fix="name another key as given.domain, or simulate scanners with given.simulate=true",
        )
    if data.source is None or data.source not in domains:
        raise UsageError(
            "E-STUDY-DOMAINS",
            file="given.source",
            found="nothing" if data.source is None else f"{data.source!r}",
            expected=f"the {data.domain} that the model was trained on",
            fix=nearest(str(data.source), domains),
        )
    return Condition(data.source, severity=0.0)


def refuse_other_labels(dataset: str | Path, labels: Mapping[int, str]) -> None:
    """Raise UsageError when a dataset says that its classes are others than a model's, `labels` by id."""
    skip = ("background", "ignore")
    own = {value: name for name, value in _labels(Path(dataset)).items() if name not in skip}
    if own and own != dict(labels):
        raise UsageError(
            "E-STUDY-LABELS",
            file=Path(dataset) / "dataset.json",
            found=_listed(own),
            expected=f"{_listed(labels)}, the classes of the model",
            fix="translate the masks with nnUNetv2_spine_labels, or name another model",
        )


def _labels(dataset: Path) -> dict[str, Any]:
    """Return the ids of a dataset's labels by name; none where it has no dataset.json, which only planning needs."""
    path = dataset / "dataset.json"
    return dict(read_json(path)["labels"]) if path.is_file() else {}


def _listed(labels: Mapping[int, str]) -> str:
    return ", ".join(f"{name} {label}" for label, name in sorted(labels.items()))
