"""What lets the unmodified `nnUNetv2_predict` run our phases.

nnU-Net looks up readers, preprocessors and label managers by name inside its own package, so a plugin cannot register
any. But a trainer's `build_network_architecture` receives the live managers of a prediction: there they are turned
into the subclasses of `inference.managers`, which are pickled by reference into nnU-Net's worker processes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from nnunet_spine_ext.core.errors import SetupError
from nnunet_spine_ext.inference.view_settings import ViewSettings
from nnunet_spine_ext.networks.mirror import SidedMirrorNetwork
from nnunet_spine_ext.networks.views import Change, IntensityViewsNetwork, PatchBias, PatchGamma

# Curves of patches count in standard deviations, so they need a normalization that makes these the unit.
_STANDARDIZED = "ZScoreNormalization"


def adopt_for_prediction(network: nn.Module, plans_manager: Any, configuration_manager: Any) -> nn.Module:
    """Adopt the managers, and wrap the network for sided mirroring and intensity views, when the plans ask for it.

    Plans without ``spine_ext.predict`` are left alone: the model then behaves like any nnU-Net model.

    Raises
    ------
    SetupError: intensity views are asked for, and no channel of the model is z-scored.
    """
    from nnunet_spine_ext.inference.managers import SpineConfigurationManager, SpinePlansManager
    from nnunet_spine_ext.inference.model import predict_settings
    from nnunet_spine_ext.inference.sides import sided_view

    plans = plans_manager.plans
    settings = predict_settings(plans)
    if settings is None:
        return network
    # Subclasses without state of their own: the objects stay the same, nnU-Net keeps its references to them.
    plans_manager.__class__ = SpinePlansManager
    configuration_manager.__class__ = SpineConfigurationManager
    sides = sided_view(plans, len(configuration_manager.patch_size)) if settings.mirror else None
    network = network if sides is None else SidedMirrorNetwork(network, *sides)
    if not settings.intensity_views:
        return network
    return IntensityViewsNetwork(network, _changes(settings.views, plans, configuration_manager))


def _changes(views: ViewSettings, plans: Mapping[str, Any], configuration_manager: Any) -> list[Change]:
    """Return what is done to patches besides mirroring: gamma, and shading with its inverse."""
    schemes = list(configuration_manager.normalization_schemes)
    channels = [scheme == _STANDARDIZED for scheme in schemes]
    if not any(channels):
        raise SetupError(
            "E-PLANS-VIEWS",
            file=f"plans {plans.get('plans_name', '')}",
            found=f"predict.intensity_views with {', '.join(schemes)}",
            expected=f"a channel with {_STANDARDIZED}; in Hounsfield units other intensities are other tissue",
            fix="set predict.intensity_views=false",
        )
    shaded = [PatchBias(sign * strength, channels) for strength in views.bias if strength for sign in (1, -1)]
    return [*(PatchGamma(gamma, channels) for gamma in views.gamma if gamma != 1), *shaded]
