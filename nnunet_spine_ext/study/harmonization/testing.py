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

from nnunet_spine_ext.core.config import load_config, to_dict
from nnunet_spine_ext.core.dataset import CASES_FILE
from nnunet_spine_ext.core.errors import NoInputError
from nnunet_spine_ext.core.io import write_bytes
from nnunet_spine_ext.harmonize.slice_grid import SliceSettings
from nnunet_spine_ext.harmonize.slice_set import DISC, SliceFacts, SliceSet
from nnunet_spine_ext.harmonize.slices import Part, read_slices, weak_pairs
from nnunet_spine_ext.study.harmonization.config import folded
from nnunet_spine_ext.study.harmonization.given import (
    refuse_known,
    refuse_other_slices,
    slices_of,
    trained_in,
    trained_on,
)
from nnunet_spine_ext.study.harmonization.measured import SOURCE, TARGET, UNSEEN, broken_slices

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
    models: Sequence[str] = (),
) -> dict[str, Any]:
    """Cut the slices with discs out of the test scans, and keep them in one file.

    Parameters
    ----------
    datasets: folders, relative to the study or absolute. values: vendors; None: all.
    grid: folder of the segmenter whose pixel size they get.
    trained: datasets of the trainings; nobody there may be tested on. models: given ones, the same of them.

    Raises
    ------
    NoInputError: no labelled slice of the target, or of any other vendor. CaseError: somebody was trained on.
    UsageError: the segmenter takes other slices.
    """
    study = Path(study)
    settings = _on_grid(slices, study / grid)
    folders = [study / folder for folder in datasets]
    found = read_slices(folders, key=key, values=values, settings=settings, part=part)
    chosen = [index for index in found.labelled() if (_masks(found)[index] == DISC).any()]
    kept = found.subset(chosen)
    vendors = {fact.vendor for fact in kept.facts}
    aims = {folded(name) for name in target}
    own = {name for name in vendors if folded(name) in aims}
    if not own or not vendors - own:
        raise NoInputError(
            "E-STUDY-DATA",
            file=", ".join(datasets),
            found=f"labelled slices with discs of {', '.join(sorted(vendors)) or 'nobody'} to test on",
            expected=f"some of {', '.join(target)}, and some of another vendor",
            fix="add test scans with masks of discs",
        )
    for folder in trained:
        refuse_known(trained_in(study / folder), kept.subjects, study / folder / CASES_FILE)
    for model in models:
        past = trained_on(Path(model), [*(study / folder for folder in trained), *folders])
        refuse_known(past.subjects, kept.subjects, Path(model))
    roles = {name: _role(name, aims, unseen) for name in vendors}
    save_slices(study / TEST_SLICES, kept, roles, settings)
    counts = {name: sum(fact.vendor == name for fact in kept.facts) for name in sorted(vendors)}
    return {"slices": counts, "problems": [str(problem) for problem in found.problems]}


def _role(vendor: str, target: set[str], unseen: Sequence[str]) -> str:
    if folded(vendor) in target:
        return TARGET
    return UNSEEN if folded(vendor) in {folded(name) for name in unseen} else SOURCE


def _on_grid(slices: SliceSettings, segmenter: Path) -> SliceSettings:
    """Return the settings with the pixel size that the segmenter was trained on; UsageError where it takes others."""
    own = slices_of(segmenter, harmonizer=False)
    if own is not None:
        refuse_other_slices(own, slices, segmenter)
    if slices.fit == "resize" or slices.spacing is not None:
        return slices
    if own is not None:
        return replace(slices, spacing=own.spacing)
    from nnunet_spine_ext.inference.slice_segmenter import load_slice_segmenter

    return replace(slices, spacing=load_slice_segmenter(segmenter).spacing)


def _masks(found: SliceSet) -> Any:
    if found.masks is None:
        return np.zeros(found.images.shape, dtype=np.uint8)
    return found.masks


def save_slices(path: Path, slices: SliceSet, roles: dict[str, str], settings: SliceSettings) -> None:
    """Write slices, the role of every vendor and how the slices were cut into one file."""
    facts = {
        "facts": [fact.to_dict() for fact in slices.facts], "spacing": list(slices.spacing), "roles": roles,
        "settings": to_dict(settings),
    }  # fmt: skip
    stream = io.BytesIO()
    np.savez(stream, images=slices.images, masks=_masks(slices), facts=np.array(json.dumps(to_plain(facts))))
    write_bytes(path, stream.getvalue())


def to_plain(value: Any) -> Any:
    """Return JSON values of numpy's numbers."""
    return json.loads(json.dumps(value, default=lambda one: one.item() if hasattr(one, "item") else to_dict(one)))


def read_saved(path: Path) -> tuple[SliceSet, dict[str, str], SliceSettings]:
    """Return the slices of `save_slices`, the role by vendor, how they were cut; CaseError for a broken file."""
    try:
        with np.load(path, allow_pickle=False) as content:
            facts = json.loads(str(content["facts"]))
            images, masks = content["images"], content["masks"]
        rows = tuple(SliceFacts(**row) for row in facts["facts"])
        spacing = (float(facts["spacing"][0]), float(facts["spacing"][1]))
        settings = load_config(SliceSettings, facts["settings"], where=str(path))
        return SliceSet(images, masks, rows, spacing), dict(facts["roles"]), settings
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise broken_slices(path, error) from error


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
