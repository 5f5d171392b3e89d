"""The record beside a contact sheet: what is needed to make the same pictures again, and to refuse other images."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from nnunet_spine_ext import __version__
from nnunet_spine_ext.augment.context import Context
from nnunet_spine_ext.augment.pipeline import Plan
from nnunet_spine_ext.core.errors import CaseError, UsageError
from nnunet_spine_ext.core.io import read_json
from nnunet_spine_ext.training.augment_choice import Choice
from nnunet_spine_ext.training.augment_sheet import Look
from nnunet_spine_ext.training.network_input import NetworkInput

VERSION = 1
KIND = "nnunet_spine_ext augmentation sheet"


@dataclass(frozen=True)
class Record:
    """A record that was read: `content` is the whole file."""

    path: Path
    content: Mapping[str, Any]

    @property
    def look(self) -> Look:
        """How the pictures were cut."""
        return Look(**self.content["look"])

    @property
    def spacing(self) -> list[float] | None:
        """What the image was resampled to, None: nothing."""
        spacing: list[float] | None = self.content["input"]["spacing"]
        return spacing

    def plans(self, context: Context | None = None) -> list[Plan]:
        """Return one plan per sample; in another context for another image.

        Raises
        ------
        UsageError: the record was changed, or is of another version.
        """
        whole = self.content["record"]
        try:
            return [Plan.from_record({**whole, "samples": [sample]}, context) for sample in whole["samples"]]
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            raise _unusable(self.path, f"samples that cannot be read ({type(error).__name__}: {error})") from error


def make_record(case: NetworkInput, choice: Choice, look: Look, plans: Sequence[Plan], seed: int) -> dict[str, Any]:
    """Return the content of the file; equal for equal input and options."""
    facts = dict(choice.facts)
    # A configuration has a hash of its own; that of scanners is made of all that is said of them.
    facts.setdefault("hash", hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16])
    first = plans[0].record
    scanners = {} if choice.scanner is None else {"scanners": [choice.scanner(plan.keys[0]) for plan in plans]}
    return {
        "kind": KIND,
        "version": VERSION,
        "made_by": __version__,
        "input": {"case": case.name, **case.facts},
        "augmentation": facts,
        "seed": seed,
        "epoch": choice.epoch,
        "look": asdict(look),
        **scanners,
        "record": {**first, "samples": [sample for plan in plans for sample in plan.record["samples"]]},
    }


def is_record(path: Path) -> bool:
    """Whether a file is a record of this kind, of any version."""
    try:
        content = read_json(path)
    except CaseError:
        return False
    return isinstance(content, dict) and content.get("kind") == KIND


def read_record(path: str | Path) -> Record:
    """Read a record.

    Raises
    ------
    UsageError: no such file, no JSON, no record, a record of another version, one without samples.
    """
    path = Path(path)
    try:
        content = read_json(path)
    except CaseError as error:
        raise _unusable(path, error.found) from error
    if not isinstance(content, dict) or content.get("kind") != KIND:
        raise _unusable(path, "no record of a contact sheet")
    if content.get("version") != VERSION:
        raise _unusable(path, f"version {content.get('version')!r}")
    try:
        known = set(content["look"]) == {item.name for item in fields(Look)}
        files = [content["input"][key] for key in ("images", "labels", "spacing")]
        samples = content["record"]["samples"]
        scanners = content.get("scanners", samples)
        plans = content["input"].get("plans")
        whole = plans is None or {"name", "sha256", "configuration"} <= plans.keys()
        usable = known and whole and isinstance(files[0], list) and bool(samples) and len(scanners) == len(samples)
    except (KeyError, TypeError, AttributeError):
        usable = False
    if not usable:
        raise _unusable(path, "a record with parts missing")
    return Record(path, content)


def refuse_other_input(record: Record, case: NetworkInput) -> None:
    """Raise UsageError if a record was made of other files, by their SHA-256, or by another configuration of plans."""
    made_of = record.content["input"]
    plans, given = made_of.get("plans"), case.facts.get("plans")
    if _which(plans) != _which(given):
        fix = "leave --plans out" if plans is None else f"add --plans {plans['name']} -c {plans['configuration']}"
        raise _other(record.path, _said(given), _said(plans), fix)
    pairs = [*zip(made_of["images"], case.facts["images"], strict=False)]
    if made_of["labels"] is not None or case.facts["labels"] is not None:
        pairs.append((made_of["labels"], case.facts["labels"]))
    differ = [(old, new) for old, new in pairs if old is None or new is None or old.get("sha256") != new.get("sha256")]
    if len(made_of["images"]) != len(case.facts["images"]):
        raise _other(record.path, f"{len(case.facts['images'])} channels", f"{len(made_of['images'])}")
    for old, new in differ:
        raise _other(
            record.path,
            "no mask" if new is None else f"{new['name']} with SHA-256 {new['sha256'][:12]}…",
            "no mask" if old is None else f"{old.get('name')} with {str(old.get('sha256'))[:12]}…",
        )


def _which(plans: Mapping[str, Any] | None) -> tuple[str, str] | None:
    """Return what tells plans apart; the name of the file does not."""
    return None if plans is None else (plans["sha256"], plans["configuration"])


def _said(plans: Mapping[str, Any] | None) -> str:
    if plans is None:
        return "no plans"
    return f"{plans['configuration']} of {plans['name']} with SHA-256 {str(plans['sha256'])[:12]}…"


def _other(path: Path, found: str, expected: str, fix: str = "give the files that it was made of") -> UsageError:
    fix = f"{fix}, or --other-image to do the same to others"
    return UsageError("E-AUG-RECORD", file=path, found=found, expected=expected, fix=fix)


def _unusable(path: Path, found: str) -> UsageError:
    expected, fix = f"a record of version {VERSION}, as written beside the pictures", "make the sheet again"
    return UsageError("E-AUG-RECORD", file=path, found=found, expected=expected, fix=fix)
