"""The slices that everything is tested on, cut once and kept; which of them are shown, and which are pairs."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_spine_ext.core.config import to_dict
from nnunet_spine_ext.core.errors import CaseError, NoInputError
from nnunet_spine_ext.core.io import write_bytes
from nnunet_spine_ext.harmonize.slice_grid import SliceSettings
from nnunet_spine_ext.harmonize.slice_set import DISC, SliceFacts, SliceSet
from nnunet_spine_ext.harmonize.slices import Part, read_slices, weak_pairs
from nnunet_spine_ext.study.harmonization.measured import SOURCE, TARGET, UNSEEN

TEST_SLICES = "test_slices.npz"


def cut_slices(
    study: str | Path,
    *,
    datasets: Sequence[str],
    part: Part,
    key: str,
    target: Sequence[str],
    unseen: Sequence[str],
    values: Sequence[str] | None,
    slices: SliceSettings,
    grid: str,
    trained: Sequence[str],
) -> dict[str, Any]:
    """Cut the slices with discs out of the test scans, and keep them in one file.

    Parameters
    ----------
    datasets: folders, relative to the study or absolute. values: vendors; None: all.
    grid: folder of the segmenter whose pixel size they get.
    trained: datasets of the trainings; nobody there may be tested on.

    Raises
    ------
    NoInputError: no labelled slice of the target, or of any other vendor. CaseError: somebody was trained on.
    """
    study = Path(study)
    found = read_slices(
        [study / folder for folder in datasets], key=key, values=values, settings=_on_grid(slices, study / grid),
        part=part,
    )  # fmt: skip
    chosen = [index for index in found.labelled() if (_masks(found)[index] == DISC).any()]
    kept = found.subset(chosen)
    vendors = {fact.vendor for fact in kept.facts}
    folded = {name.lower() for name in target}
    if not {name for name in vendors if name.lower() in folded} or len(vendors) < 2:
        raise NoInputError(
            "E-STUDY-DATA",
            file=", ".join(datasets),
            found=f"labelled slices with discs of {', '.join(sorted(vendors)) or 'nobody'} to test on",
            expected=f"some of {', '.join(target)}, and some of another vendor",
            fix="add test scans with masks of discs",
        )
    _refuse_trained(study, trained, kept)
    roles = {name: _role(name, folded, unseen) for name in vendors}
    save_slices(study / TEST_SLICES, kept, roles)
    counts = {name: sum(fact.vendor == name for fact in kept.facts) for name in sorted(vendors)}
    return {"slices": counts, "problems": [str(problem) for problem in found.problems]}


def _role(vendor: str, target: set[str], unseen: Sequence[str]) -> str:
    if vendor.lower() in target:
        return TARGET
    return UNSEEN if vendor.lower() in {name.lower() for name in unseen} else SOURCE


def _on_grid(slices: SliceSettings, segmenter: Path) -> SliceSettings:
    """Return the settings with the pixel size that the segmenter was trained on."""
    from nnunet_spine_ext.inference.slice_segmenter import load_slice_segmenter

    if slices.fit == "resize" or slices.spacing is not None:
        return slices
    return replace(slices, spacing=load_slice_segmenter(segmenter).spacing)


def _refuse_trained(study: Path, datasets: Sequence[str], kept: SliceSet) -> None:
    """Raise CaseError when somebody who is tested on was trained on: cases.json says who is who."""
    from nnunet_spine_ext.core.dataset import CASES_FILE
    from nnunet_spine_ext.core.io import read_json
    from nnunet_spine_ext.core.splits import shorten

    tested = set(kept.subjects)
    for folder in datasets:
        content = read_json(study / folder / CASES_FILE)
        rows = content.get("cases", content) if isinstance(content, dict) else {}
        both = sorted({
            str(row.get("subject") or case)
            for case, row in rows.items()
            if isinstance(row, dict) and not row.get("test")
        } & tested)  # fmt: skip
        if both:
            raise CaseError(
                "E-STUDY-SUBJECTS",
                file=study / folder / CASES_FILE,
                found=f"{shorten(both)} among those trained on and tested on",
                expected="other patients to test on",
                fix="move all scans of a patient to one side, or correct `subject` in cases.json",
            )


def _masks(found: SliceSet) -> Any:
    if found.masks is None:
        return np.zeros(found.images.shape, dtype=np.uint8)
    return found.masks


def save_slices(path: Path, slices: SliceSet, roles: dict[str, str]) -> None:
    """Write slices and the role of every vendor into one file."""
    facts = {"facts": [fact.to_dict() for fact in slices.facts], "spacing": list(slices.spacing), "roles": roles}
    stream = io.BytesIO()
    np.savez(stream, images=slices.images, masks=_masks(slices), facts=np.array(json.dumps(to_plain(facts))))
    write_bytes(path, stream.getvalue())


def to_plain(value: Any) -> Any:
    """Return JSON values of numpy's numbers."""
    return json.loads(json.dumps(value, default=lambda one: one.item() if hasattr(one, "item") else to_dict(one)))


def read_saved(path: Path) -> tuple[SliceSet, dict[str, str]]:
    """Return the slices of `save_slices`, and the role by vendor; raises CaseError for a broken file."""
    try:
        with np.load(path, allow_pickle=False) as content:
            facts = json.loads(str(content["facts"]))
            images, masks = content["images"], content["masks"]
        rows = tuple(SliceFacts(**row) for row in facts["facts"])
        spacing = (float(facts["spacing"][0]), float(facts["spacing"][1]))
        return SliceSet(images, masks, rows, spacing), dict(facts["roles"])
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise CaseError(
            "E-STUDY-TABLE",
            file=path,
            found=f"no slices ({type(error).__name__})",
            expected="what an evaluation writes",
            fix="delete the file, and do the evaluation again with --resume",
        ) from error


def pairs_of(slices: SliceSet, roles: dict[str, str]) -> dict[int, int]:
    """Return, for every slice, the target slice that shows the most alike anatomy, nearest in level and position.

    It is of the same patient where the target scanned him, too, else of any. Slices of the target themselves are paired
    with those of other patients: that says what other anatomy alone changes. Those without a pair are left out.
    """
    target = [index for index, fact in enumerate(slices.facts) if roles[fact.vendor] == TARGET]
    scanned = {slices.facts[index].subject for index in target}
    groups: dict[tuple[str | None, bool], list[int]] = {}
    for index, fact in enumerate(slices.facts):
        own = roles[fact.vendor] == TARGET
        groups.setdefault((fact.subject if fact.subject in scanned else None, own), []).append(index)
    found: dict[int, int] = {}
    for (subject, own), members in groups.items():
        if subject is None:
            aims = target
        else:
            aims = [index for index in target if (slices.facts[index].subject == subject) != own]
        if aims:
            for ours, theirs in weak_pairs(slices.subset(members), slices.subset(aims)):
                found[members[ours]] = aims[theirs]
    return found


def to_show(slices: SliceSet, roles: dict[str, str]) -> list[int]:
    """Return one slice per vendor, the target first: that with the most disc, of several the one nearest the middle."""
    order = (TARGET, SOURCE, UNSEEN)
    area = (_masks(slices) == DISC).sum(axis=(1, 2))
    vendors = sorted(slices.by_vendor().items(), key=lambda one: (order.index(roles[one[0]]), one[0]))
    return [
        min(members, key=lambda index: (-int(area[index]), abs(slices.facts[index].position), index))
        for _, members in vendors
    ]
