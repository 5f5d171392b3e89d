"""What lets the unmodified `nnUNetv2_predict` run our phases.

nnU-Net looks up readers, preprocessors and label managers by name inside its own package, so a plugin cannot register
any. But a trainer's `build_network_architecture` receives the live managers of a prediction: there they are turned
into the subclasses of `inference.managers`, which are pickled by reference into nnU-Net's worker processes.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from nnunet_spine_ext.networks.mirror import SidedMirrorNetwork


def adopt_for_prediction(network: nn.Module, plans_manager: Any, configuration_manager: Any) -> nn.Module:
    """Adopt the managers, and wrap the network for sided mirroring, when the plans ask for it.

    Plans without ``spine_ext.predict`` are left alone: the model then behaves like any nnU-Net model.
    """
    from nnunet_spine_ext.inference.managers import SpineConfigurationManager, SpinePlansManager
    from nnunet_spine_ext.inference.model import predict_settings, sided_axis, sided_pairs, trained_with_mirroring

    plans = plans_manager.plans
    settings = predict_settings(plans)
    if settings is None:
        return network
    # Subclasses without state of their own: the objects stay the same, nnU-Net keeps its references to them.
    plans_manager.__class__ = SpinePlansManager
    configuration_manager.__class__ = SpineConfigurationManager
    pairs = sided_pairs(plans)
    # A network that never saw a mirrored patch gives a wrong answer for one.
    mirror = settings.mirror and trained_with_mirroring(plans)
    axis = sided_axis(plans, len(configuration_manager.patch_size)) if pairs and mirror else None
    return network if axis is None else SidedMirrorNetwork(network, axis, pairs)
