"""Weights of one model as the start of another: outputs found again by name, everything else equal, parts frozen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from torch import Tensor, nn

from nnunet_spine_ext.core.errors import SetupError
from nnunet_spine_ext.training.finetune_settings import Parts, common_heads

State = Mapping[str, Tensor]

# nnU-Net's own U-Nets call the layers that give the outputs so, one per resolution.
_HEADS = ".seg_layers."
_NORMS = (
    nn.modules.batchnorm._BatchNorm,
    nn.modules.instancenorm._InstanceNorm,
    nn.GroupNorm,
    nn.LayerNorm,
)
_SHOWN = 3


def head_names(dataset_json: Mapping[str, Any]) -> tuple[tuple[str, ...], bool]:
    """Return the names of a network's outputs in their order, and whether they are regions, as nnU-Net orders them.

    Labels come by their ids, background first; regions as dataset.json lists them. The ignore label has no output.
    """
    labels = {name: value for name, value in dataset_json["labels"].items() if name != "ignore"}
    if any(isinstance(value, list | tuple) and len(value) > 1 for value in labels.values()):
        regions = [n for n, v in labels.items() if {int(i) for i in (v if isinstance(v, list | tuple) else [v])} != {0}]
        return tuple(regions), True
    ids = {name: int(value[0] if isinstance(value, list | tuple) else value) for name, value in labels.items()}
    return tuple(sorted(ids, key=lambda name: ids[name])), False


def differences(network: State, checkpoint: State, *, heads_differ: bool) -> list[str]:
    """Return how the tensors of a checkpoint differ from those of a network, in the network's order.

    Parameters
    ----------
    heads_differ: the number of outputs may be another one.
    """
    found = []
    for key, tensor in network.items():
        if key not in checkpoint:
            found.append(f"{key} is missing")
            continue
        wanted, there = tuple(tensor.shape), tuple(checkpoint[key].shape)
        skip = int(heads_differ and _HEADS in key)
        if wanted[skip:] != there[skip:] or len(wanted) != len(there):
            found.append(f"{key} is {list(there)} instead of {list(wanted)}")
    return found + [f"{key} is not known" for key in checkpoint if key not in network]


def refuse_another_architecture(network: State, checkpoint: State, *, heads_differ: bool, file: str) -> None:
    """Raise SetupError with the first differences when a checkpoint does not fit a network."""
    found = differences(network, checkpoint, heads_differ=heads_differ)
    if heads_differ and not any(_HEADS in key for key in network):
        found = ["a network without seg_layers, whose outputs cannot be told apart"]
    if found:
        more = f" and {len(found) - _SHOWN} more differences" if len(found) > _SHOWN else ""
        raise SetupError(
            "E-FINETUNE-NETWORK",
            file=file,
            found="; ".join(found[:_SHOWN]) + more,
            expected="the weights of the network that the plans describe",
            fix="make plans from the model itself (nnUNetv2_spine_finetune_plan -m MODEL), with its own network",
        )


def refuse_another_network(
    plans: dict[str, Any], configuration: str, dataset_json: dict[str, Any], weights: State, *, parts: Parts, file: str
) -> None:
    """Raise SetupError when weights are not those of the network that plans describe, or when it has no such parts.

    The network is built without memory for its weights.
    """
    manager = PlansManager(plans)
    own = manager.get_configuration(configuration)
    heads = manager.get_label_manager(dataset_json).num_segmentation_heads
    channels = determine_num_input_channels(manager, own, dataset_json)
    with torch.device("meta"):
        network = nnUNetTrainer.build_network_architecture(manager, own, channels, heads, True)
    refuse_another_architecture(network.state_dict(), weights, heads_differ=False, file=file)
    freeze(network, parts, new_heads=False)


def transferred(network: State, checkpoint: State, source: Sequence[str], target: Sequence[str]) -> dict[str, Tensor]:
    """Return the state of a network with the weights of a checkpoint; outputs of new names keep their fresh weights.

    Parameters
    ----------
    source, target: names of the outputs of the checkpoint and of the network, in their order.
    """
    pairs = common_heads(source, target)
    state = {}
    for key, tensor in network.items():
        if _HEADS not in key or tuple(source) == tuple(target):
            state[key] = checkpoint[key]
            continue
        state[key] = tensor.detach().clone()
        for there, here in pairs:
            state[key][here] = checkpoint[key][there]
    return state


def freeze(network: nn.Module, parts: Parts, *, new_heads: bool) -> int:
    """Let gradients flow to `parts` only, and to the segmentation layers if there are new heads.

    Returns the number of values that are trained. Raises SetupError when the network has no such parts.
    """
    trained = {id(p) for p in _parameters_of(network, parts)}
    if not trained:
        raise SetupError(
            "E-FINETUNE-PARTS",
            file="--parts",
            found=f"no {parts} in a {type(network).__name__}",
            expected="norm layers with scale and shift" if parts == "norm" else "an encoder and a decoder",
            fix="fine-tune with --parts all",
        )
    if new_heads:
        trained |= {id(p) for name, p in network.named_parameters() if _HEADS in name}
    count = 0
    for parameter in network.parameters():
        parameter.requires_grad_(id(parameter) in trained)
        count += parameter.numel() if id(parameter) in trained else 0
    return count


def _parameters_of(network: nn.Module, parts: Parts) -> list[nn.Parameter]:
    if parts == "all":
        return list(network.parameters())
    if parts == "norm":
        norms = (module for module in network.modules() if isinstance(module, _NORMS))
        return [parameter for module in norms for parameter in module.parameters(recurse=False)]
    encoder, decoder = getattr(network, "encoder", None), getattr(network, "decoder", None)
    if encoder is None or decoder is None:
        return []
    # nnU-Net's decoders hold the encoder, too.
    shared = {id(parameter) for parameter in encoder.parameters()}
    return [parameter for parameter in decoder.parameters() if id(parameter) not in shared]


def train_only_what_learns(optimizer: torch.optim.Optimizer) -> None:
    """Take frozen values out of an optimizer that has not stepped yet: neither decay nor moments may touch them."""
    for group in optimizer.param_groups:
        group["params"] = [parameter for parameter in group["params"] if parameter.requires_grad]


def still(network: nn.Module) -> None:
    """Put frozen norm layers with running statistics in evaluation mode: these would change without any gradient."""
    for module in network.modules():
        if isinstance(module, _NORMS) and getattr(module, "running_mean", None) is not None:
            parameters = list(module.parameters(recurse=False))
            if parameters and not any(parameter.requires_grad for parameter in parameters):
                module.eval()


def plain(network: nn.Module) -> nn.Module:
    """Return the network inside the wrappers of several GPUs and of the compiler."""
    network = (
        getattr(network, "module", network) if isinstance(network, nn.parallel.DistributedDataParallel) else network
    )
    inner: nn.Module = getattr(network, "_orig_mod", network)
    return inner
