"""Bring a scan's intensities to those that a model was trained on."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from nnunet_spine_ext.core.errors import CaseError, Problem, UsageError
from nnunet_spine_ext.core.volume import Array, Volume
from nnunet_spine_ext.harmonize.anchored import anchored_map
from nnunet_spine_ext.harmonize.contrast import says_ct, told
from nnunet_spine_ext.harmonize.curves import HIGH, LOW, PROBABILITIES, ChannelFacts, channel_facts
from nnunet_spine_ext.harmonize.distribution import DistributionScore, score_of
from nnunet_spine_ext.harmonize.maps import FIT_KNOTS, SLOPE_LIMITS, IntensityMap, affine, fitted, smooth, through
from nnunet_spine_ext.harmonize.nyul import NyulLandmarks, landmarks_of, load_landmarks, save_landmarks
from nnunet_spine_ext.harmonize.reference import ChannelReference, at

__all__ = [
    "MATCH_METHODS",
    "MatchResult",
    "MatchSettings",
    "is_ct",
    "kind_warnings",
    "load_landmarks",
    "match",
    "refuse_ct",
    "save_landmarks",
]
MatchMethod = Literal["none", "noise", "body", "nyul", "cdf", "anchored"]
MATCH_METHODS: tuple[MatchMethod, ...] = ("none", "noise", "body", "nyul", "cdf", "anchored")
# How much the body's map is drawn to an affine one; more where a crop's composition is not the reference's.
_RIDGE, _RIDGE_CROPPED = 0.1, 0.3
# A scan this many times farther from the training scans than nearly all of those is likely to be of another kind.
_FAR = 3.0


@dataclass(frozen=True)
class MatchSettings:
    """How intensities are matched.

    Parameters
    ----------
    method: ``body``: few knots between the quantiles of both bodies, drawn towards an affine map; ``nyul``: deciles;
        ``cdf``: all 33 quantiles; ``anchored``: quantiles of each structure, where a network found them; ``none``;
        ``noise``: none either, where a caller reduces noise (`denoising`), which `match` does not do.
    strength: 0 only moves and scales, which a z-score undoes; 1 is the whole map.
    skip_in_distribution: leave a scan alone that is as near to the reference as scans of the training scanner are.
    slope_limits: of the map, times the slope of its affine part.
    """

    method: MatchMethod = "body"
    strength: float = 1.0
    skip_in_distribution: bool = True
    slope_limits: tuple[float, float] = SLOPE_LIMITS

    def __post_init__(self) -> None:
        low, high = self.slope_limits
        around = 0 < low <= 1 <= high and low < high
        if self.method not in MATCH_METHODS or not 0 <= self.strength <= 1 or not around:
            raise UsageError(
                "E-MATCH-SETTINGS",
                file="matching",
                found=f"method {self.method!r}, strength {self.strength}, slope limits {self.slope_limits}",
                expected=f"one of {', '.join(MATCH_METHODS)}; a strength from 0 to 1; limits low < high around 1",
                fix="correct the value",
            )


@dataclass(frozen=True, eq=False)
class MatchResult:
    """A matched scan.

    Parameters
    ----------
    image: float32, same grid, in the reference's own intensity units; the scan itself where `skipped`.
    knots: of the map, (from, to) pairs; empty where skipped.
    skipped: whether the scan was left alone, and `why`: it is in distribution, or has no contrast.
    before, after: distance from the reference.
    warnings: what the user should know.
    confidence: share of the map that structures decided, 0 to 1; 0 for other methods than ``anchored``.
    """

    image: Volume
    method: MatchMethod
    skipped: bool
    why: str
    before: DistributionScore | None
    after: DistributionScore | None
    knots: tuple[tuple[float, float], ...] = ()
    warnings: list[Problem] = field(default_factory=list)
    confidence: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return all but the image as plain JSON."""
        return {
            "method": self.method,
            "skipped": self.skipped,
            "why": self.why,
            "confidence": round(self.confidence, 3),
            "knots": [[round(a, 4), round(b, 4)] for a, b in self.knots],
            "before": None if self.before is None else self.before.to_dict(),
            "after": None if self.after is None else self.after.to_dict(),
            "warnings": [problem.to_dict() for problem in self.warnings],
        }


def match(
    image: Volume,
    reference: ChannelReference,
    settings: MatchSettings,
    *,
    posteriors: Mapping[str, Array] | None = None,
    landmarks: NyulLandmarks | None = None,
    facts: ChannelFacts | None = None,
    contrast: str | None = None,
    file: str = "",
) -> MatchResult:
    """Return a scan with its intensities brought to the reference's.

    Parameters
    ----------
    image: one channel, any real type; never changed.
    posteriors: structure name (`structures.STRUCTURES`) -> probabilities (i, j, k) on the grid of the image; for
        ``anchored`` only.
    landmarks: for ``nyul``, in place of the reference's own.
    facts: of the image, without structures, where they are known; ``anchored`` finds its own.
    contrast: of the scan, where it is known; another one than the reference's is a warning.
    file: the scan in messages.

    Raises
    ------
    CaseError: a CT, or a reference made of CT: Hounsfield units mean the same on every scanner.
    UsageError: ``anchored`` without posteriors.
    """
    if settings.method == "none":
        return MatchResult(_as_float(image), "none", True, "not asked for", None, None)
    if settings.method == "anchored" and posteriors is None:
        raise UsageError(
            "E-MATCH-POSTERIORS",
            file=file,
            found="no structures for anchored matching",
            expected="probabilities of each structure, from a first prediction",
            fix="use nnUNetv2_spine_predict --match anchored, or --match body",
        )
    refuse_ct(image, reference, contrast, file)
    if facts is None or settings.method == "anchored":
        facts = channel_facts(image, posteriors if settings.method == "anchored" else None, noise=False)
    warnings = _voxel_warnings(image, file)
    low, high = float(at(facts.body, LOW)), float(at(facts.body, HIGH))
    if not high > low:
        found = f"one value ({low:g}) in four fifths of the body, or no body"
        warnings.append(
            _warning("W-MATCH-FLAT", file, found, "a scan of a body", "look at the scan; it is predicted as it is")
        )
        return MatchResult(_as_float(image), settings.method, True, "no contrast", None, None, (), warnings)
    before = score_of(facts, reference)
    warnings += kind_warnings(before, reference, contrast, file, matched=settings.method != "noise")
    if settings.method == "noise":
        return MatchResult(_as_float(image), "noise", True, "intensities stay", before, before, (), warnings)
    if settings.skip_in_distribution and before.in_distribution:
        why = f"in distribution: {before.body:.3f} of at most {before.bar:.3f}"
        return MatchResult(_as_float(image), settings.method, True, why, before, before, (), warnings)
    confidence = 0.0
    found_map = body_map(facts, reference, settings, landmarks)
    straight = _affine_part(facts, reference)
    if settings.method == "anchored":
        masks = dict(posteriors or {})

        def without(names: AbstractSet[str]) -> ChannelFacts:
            kept = {name: mask for name, mask in masks.items() if name not in names}
            return channel_facts(image, kept, noise=False)

        found_map, confidence, more = anchored_map(facts, reference, found_map, settings.slope_limits, file, without)
        warnings += more
    elif landmarks is None and score_of(_mapped(facts, found_map), reference).body >= before.body:
        # Moving and scaling, which a z-score does anyway, changes no distance. Landmarks of the caller's are not meant
        # to bring a scan nearer to the reference.
        found_map = straight
    if settings.strength < 1:
        found_map = found_map.blended(straight, settings.strength)
    after = score_of(_mapped(facts, found_map), reference)
    matched = image.with_array(found_map.apply(image.array))
    knots = tuple((float(a), float(b)) for a, b in zip(found_map.x, found_map.y, strict=True))
    return MatchResult(matched, settings.method, False, "", before, after, knots, warnings, confidence)


def body_map(
    facts: ChannelFacts, reference: ChannelReference, settings: MatchSettings, landmarks: NyulLandmarks | None = None
) -> IntensityMap:
    """Return the map from a scan's body to the reference's, by the method that the settings name."""
    part = _affine_part(facts, reference)
    slope = part.below
    if settings.method == "nyul":
        marks = landmarks or landmarks_of(reference)
        source = np.interp(marks.probabilities, PROBABILITIES, facts.body)
        return through(source, marks.values, slope, settings.slope_limits)
    target = reference.absolute(reference.mean)
    if settings.method == "cdf":
        return through(facts.body, target, slope, settings.slope_limits)
    knots = np.interp(np.linspace(PROBABILITIES[0], PROBABILITIES[-1], FIT_KNOTS), PROBABILITIES, facts.body)
    weights = 1 / (reference.spread**2 + 0.05**2)
    weights = weights / weights.mean()
    cropped = facts.air is None and reference.air is not None
    ridge = _RIDGE_CROPPED if cropped else _RIDGE
    limits, miss = settings.slope_limits, 0.1 * reference.width
    return smooth(fitted(knots, facts.body, target, weights, slope, ridge=ridge, limits=limits, scale=miss))


def _affine_part(facts: ChannelFacts, reference: ChannelReference) -> IntensityMap:
    """Return the affine map between the 10th to 90th percentile ranges of both bodies."""
    low, high = float(at(facts.body, LOW)), float(at(facts.body, HIGH))
    slope = reference.width / max(high - low, 1e-9)
    return affine(slope, reference.low - slope * low, (low, high))


def _mapped(facts: ChannelFacts, found: IntensityMap) -> ChannelFacts:
    """Return the facts of the mapped scan: quantiles of a monotone map are mapped quantiles."""
    return ChannelFacts(found(facts.body), {name: found(curve) for name, curve in facts.structures.items()})


def _as_float(image: Volume) -> Volume:
    return image.with_array(image.array.astype(np.float32))


def refuse_ct(image: Volume, reference: ChannelReference, contrast: str | None = None, file: str = "") -> None:
    """Raise CaseError for a CT, and for a reference made of CT; `image` as it was read, see `match`."""
    scan_is_ct = is_ct(image, contrast)
    if scan_is_ct or _of_ct(reference):
        which = "a CT" if scan_is_ct else f"a scan ({contrast or 'contrast unknown'}) for a model of CT"
        raise CaseError(
            "E-MATCH-CT",
            file=file,
            found=f"{which}; the reference is of {_kind(reference)}",
            expected="MR: Hounsfield units mean the same on every scanner",
            fix="predict with --match none, and only with a model that was trained on such scans",
        )


def is_ct(image: Volume, contrast: str | None) -> bool:
    """Whether a scan is a CT: by its contrast where that is known, else by its values."""
    found = says_ct(contrast)
    return looks_like_ct(image.array) if found is None else found


def _of_ct(reference: ChannelReference) -> bool:
    found = says_ct(reference.contrast)
    return reference.low < -200 if found is None else found


def _other(contrast: str | None, own: str | None) -> bool:
    """Whether two contrasts are known and differ; those of CT are one."""
    both = contrast is not None and own is not None and contrast != own
    return both and not (says_ct(contrast) and says_ct(own))


def _kind(reference: ChannelReference) -> str:
    return "scans of unknown contrast" if reference.contrast is None else f"{reference.contrast} scans"


def _ct_warnings(score: DistributionScore, reference: ChannelReference, file: str = "") -> list[Problem]:
    """Return a warning about a CT that is predicted; none where the reference is of CT, or of such scans."""
    if _of_ct(reference) or score.in_distribution:
        return []
    found = f"a CT, or what looks like one; the reference is of {_kind(reference)}"
    return [_warning("W-MATCH-CT", file, found, "MR", "use a model that was trained on CT, if this one was not")]


def looks_like_ct(array: Array) -> bool:
    """Whether values look like Hounsfield units: air near -1000, or whole numbers with fat below -50."""
    values = array.ravel()[:: max(1, array.size // 100_000)].astype(np.float64)
    values = values[np.isfinite(values)]
    if values.size == 0:
        return False
    # Filtered MR scans have values below zero too, but few, and small beside their brightest.
    if (values < -300).mean() >= 0.01 and float(np.quantile(values, 0.99)) < 3100:
        return True
    return bool((values == np.rint(values)).all() and (values < -50).mean() >= 0.05 and (values > 0).mean() >= 0.2)


def _voxel_warnings(image: Volume, file: str) -> list[Problem]:
    if image.array.dtype.kind != "f":
        return []
    strange = int(image.array.size - np.isfinite(image.array).sum())
    if not strange:
        return []
    found = f"{strange} voxels that are no number"
    return [_warning("W-MATCH-NAN", file, found, "numbers", "they become as dark as the darkest voxel")]


def kind_warnings(
    score: DistributionScore,
    reference: ChannelReference,
    contrast: str | None = None,
    file: str = "",
    *,
    matched: bool = True,
    ct: bool = False,
) -> list[Problem]:
    """Return a warning about a scan that seems to be of another kind than the training scans; one cause is told once.

    Parameters
    ----------
    matched: whether the scan is to be matched. ct: whether it is a CT, see `is_ct`.
    """
    contrast = told(contrast)
    if _other(contrast, reference.contrast):
        found = f"a scan of contrast {contrast}; the reference is of {reference.contrast}"
        fix = "look at the result, or use a model that was trained on such scans"
        if matched:
            fix = "matching keeps the order of tissues, so it cannot make one contrast of another: use --match none"
        return [_warning("W-MATCH-CONTRAST", file, found, f"a {reference.contrast} scan", fix)]
    if ct and (warnings := _ct_warnings(score, reference, file)):
        return warnings
    usual = reference.distance
    if usual is not None and not score.in_distribution and score.body > _FAR * usual:
        names = f"contrast {contrast or 'unknown'}; the reference is of {reference.contrast or 'unknown contrast'}"
        found = f"intensities {score.body / usual:.1f} times as far from the training scans as 95 % of those ({names})"
        return [_warning("W-MATCH-FAR", file, found, "a scan of the same kind", "look at the result")]
    return []


def _warning(code: str, file: str, found: str, expected: str, fix: str) -> Problem:
    return Problem("warning", code, file, found, expected, fix)
