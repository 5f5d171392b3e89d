"""A U-Net that hands out the deepest features of its encoder while it trains."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor, nn

from nnunet_spine_ext.core.errors import SetupError


class WithFeatures(NamedTuple):
    """What `BottleneckNetwork` returns in training mode.

    `segmentation`: logits (B, K, *spatial), or a list of them with deep supervision, the largest first. `features`:
    (B, C, *coarse) of the deepest stage.
    """

    segmentation: Tensor | list[Tensor]
    features: Tensor


class BottleneckNetwork(nn.Module):
    """Adopt the children of a U-Net; in training mode return its output and the deepest features.

    It has no parameters of its own, so its state-dict keys are those of the network: stock checkpoints load, and its
    own are stock. In evaluation mode it answers as the network does. Returning features, rather than keeping them from
    a hook, works under `torch.compile` and in several processes.

    Parameters
    ----------
    network: has an `encoder`, which returns features from fine to coarse, and a `decoder` of these.
    twice: in training mode the second half of a batch shows the first half again; it goes through the encoder alone,
        and the output is that of the first half. Other batches have half its size, so `torch.compile` makes two graphs.

    Raises
    ------
    SetupError: the network is none of that kind.
    """

    def __init__(self, network: nn.Module, *, twice: bool = False) -> None:
        super().__init__()
        own = [name for name, _ in network.named_parameters(recurse=False)]
        children = dict(network.named_children())
        if set(children) != {"encoder", "decoder"} or own:
            raise SetupError(
                "E-DOMAIN-NETWORK",
                file=type(network).__name__,
                found=f"a network of {', '.join([*children, *own]) or 'no parts'}",
                expected="an encoder and a decoder, as nnU-Net's U-Nets have",
                fix="train domain-adversarially with PlainConvUNet or ResidualEncoderUNet plans",
            )
        self._twice = twice
        self.encoder: Any = children["encoder"]
        self.decoder: Any = children["decoder"]

    def forward(self, x: Tensor) -> WithFeatures | Tensor | list[Tensor]:
        """Return logits of (B, C, *spatial); in training mode with the deepest features."""
        skips = self.encoder(x)
        if not self.training:
            return self.decoder(skips)
        decoded = [skip.tensor_split(2)[0] for skip in skips] if self._twice else skips
        return WithFeatures(self.decoder(decoded), skips[-1])
