"""The conditions that images are taken under: the source, the other scanners, components of a shift one by one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal

from nnunet_spine_ext.augment.profiles import COMPONENTS, REFERENCE, Scanner, parse_scanner
from nnunet_spine_ext.core.errors import UsageError
from nnunet_spine_ext.study.config import StudyConfig

Factor = Literal["scanner", "component", "pair"]
_SEPARATOR = "--"


@dataclass(frozen=True)
class Condition:
    """How images of a group of cases were taken.

    Parameters
    ----------
    scanner: name in the tables. factor: what the group is there for. components: joined by ``+``, or empty.
    severity: 0 at the source, 1 the profile. text: for `augment.profiles.parse_scanner`; empty where nothing is known.
    """

    scanner: str
    factor: Factor = "scanner"
    components: str = ""
    severity: float = 1.0
    text: str = ""

    @property
    def key(self) -> str:
        """Short name for files, of letters, digits, ``_`` and ``-`` only."""
        name = self.scanner + (f"_{self.components}_{self.severity:g}" if self.components else "")
        return "".join(letter if letter.isalnum() or letter in "_-" else _LETTERS.get(letter, "-") for letter in name)

    @property
    def is_source(self) -> bool:
        """Whether these images are those of the source."""
        return self.factor == "scanner" and self.severity == 0

    def case(self, subject: str) -> str:
        """Return the name of a subject's case under this condition."""
        return f"{self.key}{_SEPARATOR}{subject}"

    def parsed(self) -> Scanner:
        """Return the scanner with its severities."""
        return parse_scanner(self.text)

    def columns(self) -> dict[str, Any]:
        """Return what the tables say about a condition."""
        return {
            "scanner": self.scanner,
            "factor": self.factor,
            "components": self.components,
            "severity": f"{self.severity:g}",
        }


_LETTERS: Mapping[str, str] = {".": "p", "+": "_"}
SOURCE = Condition(REFERENCE, severity=0.0, text=f"{REFERENCE}:all=0")


def targets(config: StudyConfig) -> list[Condition]:
    """Return the conditions of the target scanners."""
    return [Condition(parse_scanner(name).text, text=name) for name in config.scanners]


def conditions(config: StudyConfig) -> list[Condition]:
    """Return all conditions that the test cases are taken under, the source first."""
    chosen = [SOURCE, *targets(config), *_components(config)]
    refuse_equal_keys(chosen, "scanners, components.severities")
    return chosen


def refuse_equal_keys(chosen: Sequence[Condition], where: str) -> None:
    """Raise UsageError when conditions with different names would share files: their keys differ in nothing."""
    names: dict[str, list[str]] = {}
    for condition in chosen:
        names.setdefault(condition.key, []).append(condition.text or condition.scanner)
    for key, same in names.items():
        if len(same) > 1:
            raise UsageError(
                "E-STUDY-DOMAINS",
                file=where,
                found=f"{' and '.join(map(repr, same))}, which files would both call {key}",
                expected="scanners that differ in letters or digits",
                fix="write what is the same scanner alike, or tell the others apart by another letter",
            )


def _components(config: StudyConfig) -> list[Condition]:
    chosen = config.components
    single = COMPONENTS if chosen.single else ()
    rows: list[tuple[Sequence[str], Factor, float]] = []
    rows += [((name,), "component", value) for name in single for value in chosen.severities]
    rows += [(pair, "pair", 1.0) for pair in combinations(COMPONENTS, 2) if chosen.pairs]
    return [_component(chosen.profile, names, factor, value) for names, factor, value in rows]


def _component(profile: str, names: Sequence[str], factor: Factor, severity: float) -> Condition:
    text = ":".join([f"{profile}:all=0", *(f"{name}={severity:g}" for name in names)])
    return Condition(profile, factor, "+".join(names), severity, text)
