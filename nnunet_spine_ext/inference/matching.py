"""Noise and intensities of a case before nnU-Net's preprocessing: how far from training images, and brought to them."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from nnunet_spine_ext.core.errors import Problem, SetupError, UsageError
from nnunet_spine_ext.core.settings_key import SETTINGS_KEY
from nnunet_spine_ext.core.volume import Array, Volume
from nnunet_spine_ext.harmonize.contrast import says_ct
from nnunet_spine_ext.harmonize.denoising import Quieted, judged, quieted
from nnunet_spine_ext.harmonize.distribution import score_of
from nnunet_spine_ext.harmonize.matching import (
    MatchResult,
    MatchSettings,
    is_ct,
    kind_warnings,
    match,
    refuse_ct,
)
from nnunet_spine_ext.harmonize.reference import ChannelReference, IntensityReference, reference_of
from nnunet_spine_ext.harmonize.structures import structures_of
from nnunet_spine_ext.inference.model import label_scheme
from nnunet_spine_ext.inference.settings import Match

logger = logging.getLogger(__name__)
# Where the numbers that standardise channels travel to the preprocessor, which is handed nothing else about a case.
STANDARDISE = "spine_standardise"
Moments = tuple[float, float]
_STANDARD = "ZScoreNormalization"
_CT = "CTNormalization"


@dataclass(frozen=True, eq=False)
class Matched:
    """The channels of a case after matching.

    Parameters
    ----------
    data: (C, z, y, x) float32; channels that nothing was done to are those of the file, bit by bit.
    standardise: per channel mean and standard deviation that normalise it as training images were, in place of its own;
        None where its own count.
    facts: what was found and done, for the journal.
    unmatched: the channels with less noise and the intensities of the file; None: those of the file.
    """

    data: Array
    standardise: tuple[Moments | None, ...]
    facts: dict[str, Any]
    warnings: list[Problem] = field(default_factory=list)
    unmatched: Array | None = None

    @property
    def skipped(self) -> bool:
        """Whether no channel was changed."""
        return self.kept_intensities and self.unmatched is None

    @property
    def kept_intensities(self) -> bool:
        """Whether no channel got other intensities; noise may have been reduced."""
        return all(channel["skipped"] for channel in self.facts["channels"])

    def properties(self, properties: Mapping[str, Any]) -> dict[str, Any]:
        """Return nnU-Net's properties of the case with what `SpinePreprocessor` standardises by."""
        return {**properties, STANDARDISE: self.standardise}


def match_case(
    data: Array,
    properties: Mapping[str, Any],
    reference: IntensityReference,
    method: Match,
    *,
    quiet: Sequence[Quieted] | None = None,
    posteriors: Mapping[str, Array] | None = None,
    fixed: Sequence[bool] | None = None,
    contrast: str | None = None,
    file: str = "",
) -> Matched:
    """Reduce the noise of each channel of a case, and bring its intensities to those of its reference.

    Parameters
    ----------
    data: (C, z, y, x) float32, as `reading.read_case` gives it; not changed.
    properties: nnU-Net's of the case.
    quiet: what `quieted_case` made of the case, where that is there already.
    posteriors: of ``anchored``: structure -> probabilities (x, y, z), the axes of the data in NIfTI's order.
    fixed: per channel, whether the reference's moments normalise it after matching (see `fixed_channels`).
    contrast: of the scan, where it is known (see `contrast.contrast_of`). file: the scan in messages.

    Raises
    ------
    CaseError: a CT. UsageError: another number of channels than the reference has.
    """
    references = _per_channel(reference, len(data))
    if method == "cyclegan":
        msg = "cases are harmonized by harmonizing.CaseHarmonizer"
        raise ValueError(msg)
    if quiet is None:
        quiet = quieted_case(data, properties, reference, contrast=contrast, file=file)
    settings = MatchSettings(method=method)
    results = [
        match(channel.image, own, settings, posteriors=posteriors, facts=channel.facts, contrast=contrast, file=file)
        for channel, own in zip(quiet, references, strict=True)
    ]
    moments = tuple(
        own.normalisation if usable and not result.skipped else None
        for own, result, usable in zip(references, results, fixed or (True,) * len(data), strict=True)
    )
    rows = [_facts(result) | {"noise": own.to_dict()} for result, own in zip(results, quiet, strict=True)]
    facts = {"method": method, "channels": rows}
    told = [[*result.warnings, *noise_warnings(own, file)] for result, own in zip(results, quiet, strict=True)]
    warnings = [_of_channel(problem, c, len(data)) for c, problems in enumerate(told) for problem in problems]
    changed = [own.image if own.changed else None for own in quiet]
    unmatched = put_together(data, changed) if any(own.changed for own in quiet) else None
    images = [own if result.skipped else result.image for own, result in zip(changed, results, strict=True)]
    return Matched(put_together(data, images), moments, facts, warnings, unmatched)


def quieted_case(
    data: Array,
    properties: Mapping[str, Any],
    reference: IntensityReference,
    *,
    reduce: bool = True,
    contrast: str | None = None,
    file: str = "",
) -> list[Quieted]:
    """Return each channel (z, y, x) of a case, smoothed where it is noisier than its reference allows.

    Parameters
    ----------
    reduce: False: each channel as it is, with its noise beside its reference's. See `harmonize.denoising`.

    Raises
    ------
    CaseError: a CT, which smoothed does not look like one.
    UsageError: another number of channels than the reference has.
    """
    references = _per_channel(reference, len(data))
    images = [channel_volume(channel, properties) for channel in data]
    for image, own in zip(images, references, strict=True):
        refuse_ct(image, own, contrast, file)
    look = quieted if reduce else judged
    return [look(image, own) for image, own in zip(images, references, strict=True)]


def score_case(
    data: Array,
    properties: Mapping[str, Any],
    reference: IntensityReference,
    *,
    contrast: str | None = None,
    file: str = "",
) -> tuple[dict[str, Any], list[Problem]]:
    """Return how far a case (C, z, y, x) is from a reference, for the journal, and a warning where that is far."""
    rows, warnings = [], []
    for c, (channel, own) in enumerate(zip(data, _per_channel(reference, len(data)), strict=True)):
        image = channel_volume(channel, properties)
        found = judged(image, own)
        score = score_of(found.facts, own)
        rows.append(
            {
                "skipped": True,
                "why": "not asked for",
                "before": score.to_dict(),
                "after": None,
                "noise": found.to_dict(),
            }
        )
        ct = is_ct(image, contrast)
        strange = kind_warnings(score, own, contrast, file, matched=False, ct=ct)
        if not ct:  # its noise is not what is wrong with it
            strange += noise_warnings(found, file)
        warnings += [_of_channel(problem, c, len(data)) for problem in strange]
    return {"method": "none", "channels": rows}, warnings


def noise_warnings(found: Quieted, file: str) -> list[Problem]:
    """Return a warning where a scan is predicted that is noisier than training scans, or was far noisier."""
    score = found.score
    if score is None or not found.doubtful:
        return []
    reduced, more = "", ", and at that of --match noise, which reduces it"
    if found.changed:
        reduced, more = "; it was reduced", ": smoothing makes up for only a part of such noise"
    return [
        Problem(
            "warning",
            "W-MATCH-NOISE",
            file,
            f"noise of {score.level:.4f} of the body's intensities; training scans have {score.usual:.4f}{reduced}",
            f"at most {score.limit:.4f}",
            f"look at the result{more}",
        )
    ]


def usable_reference(
    plans: Mapping[str, Any], dataset_json: Mapping[str, Any], folds: Sequence[str], method: Match, file: str
) -> IntensityReference | None:
    """Return the reference of a model, None if it has none and no matching is asked for.

    Parameters
    ----------
    folds: those that predict; none: all there are.
    file: the model in messages.

    Raises
    ------
    UsageError: matching asked of a model of CT, or of one that knows no structures; a reference of other channels.
    SetupError: matching asked of a model without a reference (``noise``: without one that knows it), or with a
        preprocessor that is not nnU-Net's own.
    """
    names = dataset_json.get("channel_names", dataset_json.get("modality", {}))
    channels, ct = len(names), has_ct(plans, names.values())
    reference = _readable_reference(plans, folds, file)
    ct = ct or (reference is not None and any(says_ct(channel.contrast) for channel in reference.channels))
    if method == "none":
        # Hounsfield units mean the same everywhere, so there is nothing to tell of a CT.
        return None if ct or reference is None or len(reference.channels) != channels else reference
    if ct:
        raise UsageError(
            "E-MATCH-CT",
            file=file,
            found=f"matching ({method}) asked of a model of CT",
            expected="a model of MR: Hounsfield units mean the same on every scanner",
            fix="predict with --match none",
        )
    if reference is None:
        raise SetupError(
            "E-MATCH-REFERENCE",
            file=file,
            found=f"matching ({method}) asked of a model without an intensity reference that can be used",
            expected='"reference" under "spine_ext" in its plans',
            fix=f"nnUNetv2_spine_reference -m {file} -i imagesTr -l labelsTr makes one of its training images",
        )
    _per_channel(reference, channels)
    if method == "noise":
        _refuse_without_noise(reference, file)
    _refuse_other_preprocessor(plans, file)
    if method == "anchored":
        _refuse_without_structures(plans, dataset_json, reference, file)
    return reference


def _readable_reference(plans: Mapping[str, Any], folds: Sequence[str], file: str) -> IntensityReference | None:
    try:
        return reference_of(plans, folds)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        # Whoever wants nothing of it must be able to predict with a model whose plans somebody edited.
        logger.warning("%s: the intensity reference in its plans is damaged (%r) and left out", file, error)
        return None


def fixed_channels(configuration: Mapping[str, Any]) -> tuple[bool, ...]:
    """Return per channel of a configuration whether the reference's moments can take the place of the image's own.

    They are those of nnU-Net's z-score over the whole image; a channel that is normalised otherwise keeps its own way.
    """
    schemes, masked = configuration["normalization_schemes"], configuration["use_mask_for_norm"]
    return tuple(scheme == _STANDARD and not inside for scheme, inside in zip(schemes, masked, strict=True))


def channel_volume(channel: Array, properties: Mapping[str, Any]) -> Volume:
    """Return a channel (z, y, x) as a volume; of readers that keep no affine, one with the right voxel sizes."""
    geometry = properties.get("nibabel_stuff")
    affine = geometry["reoriented_affine"] if geometry else np.diag([*properties["spacing"][::-1], 1.0])
    return Volume(channel.transpose(2, 1, 0), affine)


def put_together(data: Array, images: Sequence[Volume | None]) -> Array:
    """Return the channels (C, z, y, x) of a case, changed ones from their images; where none was, the very same array.

    Outside the box around all that is not 0 everything stays 0: nnU-Net cuts that away, and no map may stop it.
    """
    if all(image is None for image in images):
        return data
    box = [slice(None)]
    for axis in (1, 2, 3):
        others = tuple(a for a in range(4) if a != axis)
        filled = np.flatnonzero((data != 0).any(axis=others))
        box.append(slice(filled[0], filled[-1] + 1))
    inside = tuple(box)
    matched = np.zeros_like(data)
    for c, image in enumerate(images):
        channel = data[c] if image is None else image.array.transpose(2, 1, 0)
        matched[c][inside[1:]] = channel[inside[1:]]
    return matched


def _per_channel(reference: IntensityReference, channels: int) -> tuple[ChannelReference, ...]:
    if len(reference.channels) != channels:
        raise UsageError(
            "E-MATCH-CHANNELS",
            file="plans spine_ext.reference",
            found=f"{len(reference.channels)} channels; the case has {channels}",
            expected="a reference of the images that the model was trained with",
            fix="make it anew with nnUNetv2_spine_reference",
        )
    return reference.channels


def _facts(result: MatchResult) -> dict[str, Any]:
    facts = result.to_dict()
    # The method is the case's, warnings have their place in the journal, and a smooth map has a hundred knots.
    return {key: value for key, value in facts.items() if key not in ("method", "warnings", "knots")}


def _of_channel(problem: Problem, channel: int, channels: int) -> Problem:
    return problem if channels == 1 else replace(problem, found=f"channel {channel}: {problem.found}")


def has_ct(plans: Mapping[str, Any], names: Iterable[Any]) -> bool:
    """Whether a model is one of CT, by its plans or by the names of its channels."""
    schemes = [s for c in plans.get("configurations", {}).values() for s in c.get("normalization_schemes", ())]
    return _CT in schemes or any(says_ct(str(name)) for name in names)


def _refuse_other_preprocessor(plans: Mapping[str, Any], file: str) -> None:
    names = {c["preprocessor_name"] for c in plans["configurations"].values() if "preprocessor_name" in c}
    if names - {"DefaultPreprocessor"}:
        raise SetupError(
            "E-MATCH-PREPROCESSOR",
            file=file,
            found=f"preprocessor {', '.join(sorted(names))}",
            expected="DefaultPreprocessor: matching is done before it, and normalises in its place",
            fix="predict with --match none",
        )


def without_noise(reference: IntensityReference) -> str:
    """Return the numbers of the channels whose reference does not tell the noise of training scans; empty: none."""
    return ", ".join(str(number) for number, channel in enumerate(reference.channels) if channel.noise is None)


def _refuse_without_noise(reference: IntensityReference, file: str) -> None:
    if channels := without_noise(reference):
        raise SetupError(
            "E-MATCH-REFERENCE",
            file=file,
            found=f"a reference that does not tell the noise of training scans (channel {channels}): of one scan, or "
            "of an earlier version",
            expected='"noise" in "reference" under "spine_ext" in its plans',
            fix=f"nnUNetv2_spine_reference -m {file} -i imagesTr -l labelsTr --overwrite makes it anew",
        )


def _refuse_without_structures(
    plans: Mapping[str, Any], dataset_json: Mapping[str, Any], reference: IntensityReference, file: str
) -> None:
    own = set(structures_of(dataset_json, label_scheme(plans)))
    known = set.intersection(*(set(channel.structures) for channel in reference.channels))
    if own & known:
        return
    raise UsageError(
        "E-MATCH-STRUCTURES",
        file=file,
        found=f"anchored matching asked of a model with the structures {_listed(own)} and a reference of those of "
        f"{_listed(known)} (scheme {plans.get(SETTINGS_KEY, {}).get('data', {}).get('scheme', 'custom')})",
        expected="a structure that both know: vertebrae, discs, cord or canal",
        fix="use --match body"
        if not own
        else "make the reference anew with nnUNetv2_spine_reference, or use --match body",
    )


def _listed(names: set[str]) -> str:
    return ", ".join(sorted(names)) or "nothing"
