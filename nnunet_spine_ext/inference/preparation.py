"""From a case as it was read to what the network gets: intensities compared and matched, then nnU-Net's preprocessing.

Anchored matching looks twice: a first, quick prediction after the matching of bodies says where structures are.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from nnunet_spine_ext.core.errors import Problem
from nnunet_spine_ext.core.volume import Array
from nnunet_spine_ext.harmonize.contrast import contrast_of
from nnunet_spine_ext.harmonize.reference import IntensityReference
from nnunet_spine_ext.harmonize.structures import structures_of
from nnunet_spine_ext.inference.export import on_image_grid
from nnunet_spine_ext.inference.harmonizing import METHOD, CaseHarmonizer, harmonizer_folder
from nnunet_spine_ext.inference.managers import SpineConfigurationManager
from nnunet_spine_ext.inference.matching import (
    Matched,
    fixed_channels,
    match_case,
    quieted_case,
    score_case,
    usable_reference,
    without_noise,
)
from nnunet_spine_ext.inference.model import label_scheme, predict_settings
from nnunet_spine_ext.inference.settings import Match, PredictSettings
from nnunet_spine_ext.networks.mirror import one_sided

if TYPE_CHECKING:
    import torch

    from nnunet_spine_ext.inference.options import RunOptions
    from nnunet_spine_ext.inference.predictor import SpinePredictor

logger = logging.getLogger(__name__)
# Below this share of the map structures decided little: the body decided the rest, and the user should know.
_LITTLE = 0.5
# Of the structures that model and reference know, at least this share must be found for a map to be anchored in them.
_FEW = 0.5


@dataclass(frozen=True)
class Prepared:
    """The network's input (C, *spatial), nnU-Net's properties, facts for journal and QC, and warnings.

    `details` take the place of facts of the same name in the QC.
    """

    data: torch.Tensor
    properties: dict[str, Any]
    facts: dict[str, Any] = field(default_factory=dict)
    warnings: list[Problem] = field(default_factory=list)
    details: dict[str, Any] = field(default_factory=dict)


class Preparation:
    """Prepares the cases of a run.

    Parameters
    ----------
    predictor: with its network; anchored matching predicts with it.
    reference: of the model (`matching.usable_reference`); None: intensities are neither compared nor matched.
    method: of matching; ``none`` compares only.
    harmonizer: of ``cyclegan``; it needs no reference.
    """

    def __init__(
        self,
        predictor: SpinePredictor,
        reference: IntensityReference | None,
        method: Match,
        harmonizer: CaseHarmonizer | None = None,
    ) -> None:
        self.predictor = predictor
        self.reference = reference
        self.method = method
        self.harmonizer = harmonizer
        configuration = predictor.configuration_manager
        self.fixed = fixed_channels(configuration.configuration)
        if method != "none" and not isinstance(configuration, SpineConfigurationManager):
            # Models of stock trainers have nnU-Net's own preprocessor, which normalises every image by itself.
            configuration.__class__ = SpineConfigurationManager

    def __call__(self, raw: Array, properties: Mapping[str, Any], file: str) -> Prepared:
        """Prepare a case that `SpinePredictor.read` gave, (C, z, y, x).

        Raises CaseError for a CT given to matching. `file` is what messages name.
        """
        if self.harmonizer is not None:
            return self._harmonized(raw, properties, self.harmonizer, file)
        if self.reference is None:
            return self._preprocessed(Matched(raw, (None,) * len(raw), {}), properties)
        if self.method == "none":
            contrast = contrast_of(file, self.reference.contrast, len(raw))
            facts, warnings = score_case(raw, properties, self.reference, contrast=contrast, file=file)
            return self._preprocessed(Matched(raw, (None,) * len(raw), facts, warnings), properties)
        return self._changed(self._match(raw, properties, self.reference, file), raw, properties)

    def _changed(self, matched: Matched, raw: Array, properties: Mapping[str, Any]) -> Prepared:
        prepared = self._preprocessed(matched, properties)
        if self.predictor.tta == "full" and not matched.kept_intensities:
            # One of its views has the intensities that came; both are cut alike, so they lie on one grid.
            unmatched = raw if matched.unmatched is None else matched.unmatched
            own = self._preprocessed(Matched(unmatched, (None,) * len(raw), {}), properties)
            self.predictor.unmatched = own.data
        return prepared

    def _harmonized(self, raw: Array, properties: Mapping[str, Any], harmonizer: CaseHarmonizer, file: str) -> Prepared:
        matched, found = harmonizer(raw, properties, self.reference, file)
        prepared = self._changed(matched, raw, properties)
        facts = prepared.facts | {"harmonization": found.summary()}
        return replace(prepared, facts=facts, details={"harmonization": found.to_dict()})

    def _match(self, raw: Array, properties: Mapping[str, Any], reference: IntensityReference, file: str) -> Matched:
        contrast = contrast_of(file, reference.contrast, len(raw))
        quiet = quieted_case(raw, properties, reference, contrast=contrast, file=file)

        def by(method: Match, posteriors: Mapping[str, Array] | None = None) -> Matched:
            return match_case(
                raw,
                properties,
                reference,
                method,
                quiet=quiet,
                posteriors=posteriors,
                fixed=self.fixed,
                contrast=contrast,
                file=file,
            )

        if self.method != "anchored":
            return by(self.method)
        first = by("body")
        if first.kept_intensities:
            # The body alone decides that, so a first prediction could change nothing; it would only score structures.
            return replace(first, facts={**first.facts, "method": "anchored"})
        prepared = self._preprocessed(first, properties)
        posteriors = structure_posteriors(self.predictor, prepared.data, prepared.properties)
        matched = by("anchored", posteriors=posteriors)
        if matched.kept_intensities:
            return matched
        known = {name for name in posteriors if all(name in channel.structures for channel in reference.channels)}
        found = known & {name for channel in matched.facts["channels"] for name in channel["before"]["structures"]}
        if len(found) < _FEW * len(known):
            # A network that is lost calls all that it finds one thing; structures of a spine come together.
            facts = {**first.facts, "method": "anchored", "fallback": "body"}
            return replace(first, facts=facts, warnings=[*first.warnings, _few_structures(found, known, file)])
        for channel in matched.facts["channels"]:
            if not channel["skipped"] and channel["confidence"] < _LITTLE:
                matched.warnings.append(_little_confidence(channel["confidence"], file))
        return matched

    def _preprocessed(self, matched: Matched, properties: Mapping[str, Any]) -> Prepared:
        data, own = self.predictor.preprocess(matched.data, matched.properties(properties))
        return Prepared(data, own, {"intensity": matched.facts} if matched.facts else {}, matched.warnings)


def planned_preparation(predictor: SpinePredictor, folds: Sequence[str], file: str) -> Preparation | None:
    """Return what prepares cases as the plans of a model say, with the reference of some folds; None: without matching.

    Raises UsageError or SetupError for matching that cannot be; `file` is the model in messages.
    """
    plans = predictor.plans_manager.plans
    settings = predict_settings(plans) or PredictSettings()
    method = settings.match
    if method == "none":
        return None
    folder = harmonizer_folder(plans, predictor.dataset_json, method, None, file)
    if folder is not None:
        return _harmonizing(predictor, folds, folder, file)
    return Preparation(predictor, usable_reference(plans, predictor.dataset_json, folds, method, file), method)


def preparation_of(predictor: SpinePredictor, folds: Sequence[str], options: RunOptions, file: str) -> Preparation:
    """Return what prepares the cases of a run; raises as `planned_preparation` does."""
    if options.harmonize_model is not None:
        return _harmonizing(predictor, folds, options.harmonize_model, file)
    plans = predictor.plans_manager.plans
    reference = usable_reference(plans, predictor.dataset_json, folds, options.match, file)
    if reference is not None and options.match != "none" and (channels := without_noise(reference)):
        logger.warning(
            "%s: its reference does not tell the noise of training scans (channel %s), so none is reduced; "
            "nnUNetv2_spine_reference -m %s -i imagesTr -l labelsTr --overwrite makes it anew, from two scans at least",
            file,
            channels,
            file,
        )
    return Preparation(predictor, reference, options.match)


def _harmonizing(predictor: SpinePredictor, folds: Sequence[str], folder: str, file: str) -> Preparation:
    """Return what harmonizes cases with the network of a folder, within the limits that the plans of a model say."""
    plans = predictor.plans_manager.plans
    # The reference is there to tell distances; harmonizing does without.
    reference = usable_reference(plans, predictor.dataset_json, folds, "none", file)
    gate = (predict_settings(plans) or PredictSettings()).gate
    return Preparation(predictor, reference, METHOD, CaseHarmonizer(folder, gate, predictor.device))


def structure_posteriors(predictor: SpinePredictor, data: torch.Tensor, properties: dict[str, Any]) -> dict[str, Array]:
    """Return how surely each structure of a prepared image is where: (x, y, z) on the image's grid, float16, 0 to 1.

    The look is quick: one fold, windows side by side, no views. What is as likely as not counts nothing, so a network
    that hesitates everywhere says little, in place of something wrong.
    """
    import torch

    with quickly(predictor):
        answer = predictor.posterior(data)
    regions = predictor.label_manager.has_regions
    found: dict[str, Array] = {}
    for name, heads in _heads(predictor, regions=regions).items():
        own = answer[list(heads)]
        chance = own.amax(dim=0) if regions else own.sum(dim=0)
        sure = torch.nan_to_num((2 * chance - 1).clamp(min=0, max=1))
        managers = predictor.plans_manager, predictor.configuration_manager
        found[name] = on_image_grid(sure[None].numpy(), *managers, properties)[0].astype(np.float16).transpose(2, 1, 0)
    return found


def _heads(predictor: SpinePredictor, *, regions: bool) -> dict[str, tuple[int, ...]]:
    """Return the output channels of each structure."""
    dataset_json, scheme = predictor.dataset_json, label_scheme(predictor.plans_manager.plans)
    if not regions:
        return structures_of(dataset_json, scheme)
    # A region has a channel of its own, whichever labels it holds; they are counted from 1 here because 0 is none.
    names = [name for name in dataset_json["labels"] if name not in ("background", "ignore")]
    numbered = structures_of({"labels": {name: k + 1 for k, name in enumerate(names)}}, "custom")
    return {name: tuple(k - 1 for k in ids) for name, ids in numbered.items()}


@contextmanager
def quickly(predictor: SpinePredictor) -> Iterator[None]:
    """Let a predictor look at images with one fold, windows side by side, and nothing averaged."""
    names = ("list_of_parameters", "tile_step_size", "use_mirroring", "tta", "crop", "uncertainty")
    before = {name: getattr(predictor, name) for name in names}
    quick = (predictor.list_of_parameters[:1], 1.0, False, "none", "off", False)
    try:
        for name, value in zip(names, quick, strict=True):
            setattr(predictor, name, value)
        with one_sided(predictor.network):
            yield
    finally:
        for name, value in before.items():
            setattr(predictor, name, value)


def _few_structures(found: AbstractSet[str], known: AbstractSet[str], file: str) -> Problem:
    return Problem(
        "warning",
        "W-MATCH-UNSURE",
        file,
        f"a first prediction that found {', '.join(sorted(found)) or 'no structure'} of {', '.join(sorted(known))}",
        "half of the structures at least",
        "the body alone was matched, as with --match body; look at the result",
    )


def _little_confidence(confidence: float, file: str) -> Problem:
    return Problem(
        "warning",
        "W-MATCH-UNSURE",
        file,
        f"too little of the structures, or something else: they decided {confidence:.0%} of the matching",
        f"{_LITTLE:.0%} at least",
        "the body decided the rest, as with --match body; look at the result",
    )
