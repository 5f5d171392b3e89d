"""Which domain each case is from, by cases.json; which of them teach, and which may only be looked at."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunet_spine_ext.core.config import nearest
from nnunet_spine_ext.core.errors import SetupError
from nnunet_spine_ext.core.io import read_json
from nnunet_spine_ext.core.splits import case_counts, shorten
from nnunet_spine_ext.training.domain_settings import DomainSettings

_FILE = "cases.json"
_FEWEST = 2
# What a row says besides facts of the scanner, and why it makes no domains.
_NO_DOMAINS = {
    # A probe tests on subjects that it has not seen, and could never be right.
    "subject": "every subject would be a domain of its own",
    "sources": "the files of a case are its own",
    "labelled": "whether there is a mask is not seen in an image",
    "train_only": "how a case may be used is not seen in an image",
}


@dataclass(frozen=True)
class CaseDomains:
    """The domains of the cases of a fold.

    `names`: of the domains, in the order in which they are numbered. `of_case`: number by case, of training and
    validation cases; a validation case of a domain that is not trained on has -1. `supervised`: training cases whose
    masks are used. `scored`: validation cases whose masks may choose the best checkpoint.
    """

    names: tuple[str, ...]
    of_case: Mapping[str, int]
    supervised: frozenset[str]
    scored: tuple[str, ...]


def unlabelled_cases(folder: str | Path) -> frozenset[str]:
    """Return the cases that cases.json of a preprocessed folder says to have no mask; none where there is no table."""
    path = Path(folder) / _FILE
    rows = read_json(path)["cases"] if path.is_file() else {}
    return frozenset(case for case, row in rows.items() if not row.get("labelled", True))


def case_domains(
    folder: str | Path, settings: DomainSettings, train: Sequence[str], validation: Sequence[str]
) -> CaseDomains:
    """Return the domains of the cases of a fold.

    Parameters
    ----------
    folder: `nnUNet_preprocessed/<dataset>`, with cases.json.

    Raises
    ------
    SetupError: no cases.json, cases without a domain (named), fewer than two domains among the training cases (says
        what was found), a target that does not occur, no domain with masks, or none to validate on.
    """
    path = Path(folder) / _FILE
    rows = _rows(path)
    labels = _labels(path, rows, settings, sorted({*train, *validation}))
    targets = _targets(path, labels, settings)
    counts = Counter(labels[case] for case in train)
    if len(counts) < _FEWEST:
        raise _error(
            "E-DOMAIN-SINGLE",
            path,
            f"{case_counts(counts)} among the {len(train)} training cases by {settings.key}",
            "at least two domains",
            "add cases of another domain (masks are not needed), choose another domain.key, or simulate scanners: "
            "-tr nnUNetTrainerSpineShiftDANN",
        )
    supervised = frozenset(c for c in train if rows[c].get("labelled", True) and labels[c] not in targets)
    if not supervised:
        raise _error(
            "E-DOMAIN-SOURCE",
            path,
            f"no training case with a mask outside the targets ({case_counts(counts)})",
            "a domain with masks to learn from",
            "take a domain out of domain.target, or add cases with masks",
        )
    # A domain without any mask among the training cases is one that the model is adapted to.
    sources = {labels[case] for case in supervised}
    scored = tuple(c for c in validation if rows[c].get("labelled", True) and labels[c] in sources)
    if not scored:
        raise _error(
            "E-DOMAIN-VALIDATION",
            path,
            f"no validation case with a mask from {', '.join(sorted(sources))}",
            "validation cases of a domain that is trained with masks: others may not choose the checkpoint",
            "choose another fold, or write splits with such cases",
        )
    names = tuple(sorted(counts))
    number = {name: position for position, name in enumerate(names)}
    return CaseDomains(names, {case: number.get(label, -1) for case, label in labels.items()}, supervised, scored)


def refuse_absent_domains(path: Path, settings: DomainSettings) -> None:
    """Raise SetupError when a table of cases knows no case with the key, or none of a target; `path`: cases.json.

    Does nothing without the table, and for simulated scanners, which need none.
    """
    if settings.simulated or not path.is_file():
        return
    rows = _rows(path)
    _refuse_unknown_facts(path, rows, settings, sorted(rows))
    found = {case: _label(row, settings.parts) for case, row in rows.items()}
    _targets(path, {case: label for case, label in found.items() if label is not None}, settings)


def _rows(path: Path) -> dict[str, dict[str, Any]]:
    if not path.is_file():
        raise _error(
            "E-DOMAIN-CASES",
            path,
            "no such file",
            "a table that says which domain each case belongs to",
            "copy it from the raw dataset (nnUNetv2_spine_plan does), or convert again",
        )
    rows: dict[str, dict[str, Any]] = read_json(path)["cases"]
    return rows


def _refuse_unknown_facts(
    path: Path, rows: Mapping[str, Mapping[str, Any]], settings: DomainSettings, cases: Sequence[str]
) -> None:
    facts = (fact for case in cases for fact in rows.get(case, {}).items())
    known = sorted({name for name, value in facts if name not in _NO_DOMAINS and isinstance(value, str | int | float)})
    strange = [part for part in settings.parts if part not in known]
    if strange:
        why = _NO_DOMAINS.get(strange[0])
        what = strange[0] if why else ", ".join(strange)
        raise _error(
            "E-DOMAIN-KEY",
            path,
            f"domain.key {what}: {why or 'no case states it'}",
            "facts of scanners that cases.json states",
            f"set domain.key, or fill the table in; {nearest(strange[0], known)}",
        )


def _labels(
    path: Path, rows: Mapping[str, Mapping[str, Any]], settings: DomainSettings, cases: Sequence[str]
) -> dict[str, str]:
    """Return the domain of each case as text, the same for texts that differ in capitals and spaces alone."""
    _refuse_unknown_facts(path, rows, settings, cases)
    labels = {case: _label(rows.get(case, {}), settings.parts) for case in cases}
    missing = [case for case, label in labels.items() if label is None]
    if missing:
        raise _error(
            "E-DOMAIN-UNKNOWN",
            path,
            f"no {settings.key} for {len(missing)} case(s): {shorten(missing)}",
            "the domain of every case of the fold",
            "fill it in in cases.json, take the cases out of the splits, or choose another domain.key",
        )
    return {case: label for case, label in labels.items() if label is not None}


def _label(row: Mapping[str, Any], parts: Sequence[str]) -> str | None:
    values = [row.get(part) for part in parts]
    texts = [f"{value:g}" if isinstance(value, float) else str(value).strip().lower() for value in values]
    unknown = any(value is None or not text for value, text in zip(values, texts, strict=True))
    return None if unknown else "+".join(texts)


def _targets(path: Path, labels: Mapping[str, str], settings: DomainSettings) -> set[str]:
    targets = {name.strip().lower() for name in settings.target}
    found = set(labels.values())
    absent = sorted(targets - found)
    if absent:
        raise _error(
            "E-DOMAIN-TARGET",
            path,
            f"no case of {', '.join(absent)}",
            f"targets among the domains by {settings.key}",
            f"correct domain.target; {nearest(absent[0], found)}",
        )
    return targets


def _error(code: str, path: Path, found: str, expected: str, fix: str) -> SetupError:
    return SetupError(code, file=path, found=found, expected=expected, fix=fix)
