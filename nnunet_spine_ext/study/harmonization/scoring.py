"""Scores of one arm: its slices segmented, their radiomic features, their edges; against truth, pairs and source."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nnunet_spine_ext.core.io import write_json
from nnunet_spine_ext.core.threads import limit_threads
from nnunet_spine_ext.core.volume import Array
from nnunet_spine_ext.harmonize.slice_set import DISC, SliceSet
from nnunet_spine_ext.study.harmonization.arms import NONE
from nnunet_spine_ext.study.harmonization.given import refuse_other_slices, slices_of
from nnunet_spine_ext.study.harmonization.measured import TARGET
from nnunet_spine_ext.study.harmonization.overlap import overlap
from nnunet_spine_ext.study.harmonization.pictures import SHOWN, Shown
from nnunet_spine_ext.study.harmonization.testing import TEST_SLICES, pairs_of, read_saved, to_show
from nnunet_spine_ext.study.records import without_nan

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from nnunet_spine_ext.harmonize.cyclegan.settings import RadiomicSettings
    from nnunet_spine_ext.harmonize.harmonizer import Harmonizer
    from nnunet_spine_ext.harmonize.segmenter import SliceSegmenter
    from nnunet_spine_ext.harmonize.slice_grid import SliceSettings

_BATCH = 8


def score_arm(
    study: str | Path,
    *,
    arm: str,
    scores: str,
    harmonizer: str | None,
    segmenters: Mapping[str, str],
    main: str,
    radiomics: RadiomicSettings,
    show: bool,
    device: str,
) -> dict[str, Any]:
    """Harmonize the test slices, score them and write all rows to one file.

    Parameters
    ----------
    scores: file for the rows, relative to the study. harmonizer: folder of the arm's model; None: slices as they are.
    segmenters: folders by name; `main` judges, the others are scored on slices as they are only.
    radiomics: how features are measured.
    show: keep some slices for the pictures.

    Slices of the target are scored as they are only: nothing else has to be done with them.

    Raises
    ------
    UsageError: a model was made from slices of another fit, scaling or pixel size.
    """
    from nnunet_spine_ext.core.device import choose_device

    limit_threads()
    study, where = Path(study), choose_device(device)
    slices, roles, cut = read_saved(study / TEST_SLICES)
    rows = [k for k, fact in enumerate(slices.facts) if arm == NONE or roles[fact.vendor] != TARGET]
    judge = _segmenter(study / segmenters[main], where, cut)
    images = slices.images.copy()
    if harmonizer is not None:
        images[rows] = _harmonized(slices, rows, _harmonizer(study / harmonizer, where, cut), where)
    found: dict[str, Array] = {main: _probabilities(images, judge, where)}
    if arm == NONE:
        for name, folder in segmenters.items():
            if name != main:
                found[name] = _probabilities(images, _segmenter(study / folder, where, cut), where)
    geometry = [] if harmonizer is None else list(_geometry(slices, rows, images, judge, where))
    content = {
        "segmentation": list(_segmentation(slices, rows, found)),
        "radiomics": list(_radiomics(slices, roles, rows, images, radiomics)),
        "geometry": [dict(row) for row in geometry],
    }
    keys = [_keys(slices, roles, arm, row) for row in range(len(slices))]
    written = {name: [keys[row.pop("row")] | row for row in part] for name, part in content.items()}
    write_json(study / scores, without_nan(written), indent=None)
    if show:
        places = [int(row["row"]) for row in geometry if not row["passed"]]
        _shown(slices, roles, images, found[main], places).save(study / SHOWN / f"{arm}.npz")
    return {"slices": len(rows)}


def _keys(slices: SliceSet, roles: Mapping[str, str], arm: str, row: int) -> dict[str, Any]:
    fact = slices.facts[row]
    return {
        "arm": arm, "vendor": fact.vendor, "role": roles[fact.vendor], "case": fact.case, "subject": fact.subject,
        "slice": fact.index,
    }  # fmt: skip


def _segmenter(folder: Path, device: torch.device, cut: SliceSettings) -> SliceSegmenter:
    """Load a segmenter for slices of one cut; UsageError where it was made from other ones."""
    from nnunet_spine_ext.inference.slice_segmenter import load_slice_segmenter

    own = slices_of(folder, harmonizer=False)
    if own is not None:
        refuse_other_slices(own, cut, folder)
        return load_slice_segmenter(folder, device)
    # A model of nnU-Net resamples slices to its own pixels, as it does with scans.
    return load_slice_segmenter(folder, device, spacing=cut.spacing if cut.fit == "crop" else None)


def _harmonizer(folder: Path, device: torch.device, cut: SliceSettings) -> Harmonizer:
    """Load a harmonizer for slices of one cut; UsageError where it was made from other ones."""
    from nnunet_spine_ext.harmonize.harmonizer import load_harmonizer, read_harmonizer

    refuse_other_slices(read_harmonizer(folder).slices, cut, folder)
    return load_harmonizer(folder, device)


def _batches(images: Array, rows: Sequence[int], device: torch.device) -> Iterator[tuple[list[int], Tensor]]:
    import torch

    for start in range(0, len(rows), _BATCH):
        chosen = list(rows[start : start + _BATCH])
        yield chosen, torch.from_numpy(np.ascontiguousarray(images[chosen]))[:, None].to(device)


def _harmonized(slices: SliceSet, rows: Sequence[int], harmonizer: Harmonizer, device: torch.device) -> Array:
    parts = [harmonizer(batch).cpu().numpy()[:, 0] for _, batch in _batches(slices.images, rows, device)]
    return np.concatenate(parts)


def _probabilities(images: Array, segmenter: SliceSegmenter, device: torch.device) -> Array:
    import torch

    with torch.no_grad():
        parts = [segmenter(batch).cpu().numpy()[:, 0] for _, batch in _batches(images, range(len(images)), device)]
    return np.concatenate(parts)


def _segmentation(slices: SliceSet, rows: Sequence[int], found: Mapping[str, Array]) -> Iterator[dict[str, Any]]:
    masks = _masks(slices)
    for name, maps in found.items():
        for row in rows:
            yield {"row": row, "segmenter": name, **asdict(overlap(maps[row], masks[row]))}


def _masks(slices: SliceSet) -> Array:
    if slices.masks is None:
        msg = "test slices have masks"
        raise RuntimeError(msg)
    return slices.masks


def _radiomics(
    slices: SliceSet, roles: Mapping[str, str], rows: Sequence[int], images: Array, settings: RadiomicSettings
) -> Iterator[dict[str, Any]]:
    """Yield the features of every slice beside those of its weakly paired target slice.

    The window is around the true discs, whatever the arm: all arms are measured in the same place.
    """
    from nnunet_spine_ext.losses.radiomics import FEATURES

    pairs = pairs_of(slices, dict(roles))
    masks = (_masks(slices) == DISC).astype(np.float32)
    own, aims = _features(images, masks, settings), _features(slices.images, masks, settings)
    for row in rows:
        if row not in pairs:
            continue
        other = pairs[row]
        for place, name in enumerate(FEATURES):
            value, aim = float(own[row, place]), float(aims[other, place])
            yield {
                "row": row, "reference_case": slices.facts[other].case, "reference_slice": slices.facts[other].index,
                "feature": name, "value": value, "reference": aim,
                "error": abs(value - aim) / abs(aim) if aim else float("nan"),
            }  # fmt: skip


def _features(images: Array, masks: Array, settings: RadiomicSettings) -> Array:
    import torch

    from nnunet_spine_ext.harmonize.cyclegan.regions import region_features

    parts = []
    for chosen, batch in _batches(images, range(len(images)), torch.device("cpu")):
        parts.append(region_features(batch, torch.from_numpy(masks[chosen])[:, None], settings).numpy())
    return np.concatenate(parts)


def _geometry(
    slices: SliceSet, rows: Sequence[int], images: Array, segmenter: SliceSegmenter, device: torch.device
) -> Iterator[dict[str, Any]]:
    """Yield what the geometry gate says of every slice, at its default limits."""
    from nnunet_spine_ext.harmonize.geometry_gate import GateSettings, disc_changes, judge

    settings = GateSettings()
    for chosen, before in _batches(slices.images, rows, device):
        after = np.ascontiguousarray(images[chosen])
        changes = disc_changes(before, next(_batches(after, range(len(after)), device))[1], slices.spacing, segmenter)
        for place, row in enumerate(chosen):
            index = slices.facts[row].index
            said = judge(index, slices.images[row], after[place], slices.spacing, settings, changes[place])
            change = said.volume_change
            yield {
                "row": row, "edge_correlation": said.edge_correlation, "agreement": said.agreement,
                "volume_change": None if change is None else abs(change), "passed": said.passed, "why": said.why,
            }  # fmt: skip


def _shown(slices: SliceSet, roles: Mapping[str, str], images: Array, found: Array, refused: Sequence[int]) -> Shown:
    """Return the slices to show; `refused`: those that the geometry gate does not pass."""
    chosen = to_show(slices, dict(roles))
    facts = [slices.facts[row] for row in chosen]
    return Shown(
        images[chosen], found[chosen], _masks(slices)[chosen], tuple(fact.vendor for fact in facts),
        tuple(f"{fact.case}, slice {fact.index}" for fact in facts), tuple(row in refused for row in chosen),
    )  # fmt: skip
