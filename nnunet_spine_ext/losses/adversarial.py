"""What generators and discriminators of slices are told about their scores, and the memory of earlier slices."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

AdversarialForm = Literal["lsgan", "bce"]


def adversarial_loss(scores: Tensor, *, real: bool, form: AdversarialForm = "lsgan") -> Tensor:
    """Return how far scores are from what they should say; of a generator `real` is what it wants to hear.

    Parameters
    ----------
    scores: any shape, before any sigmoid.
    form: ``lsgan``: mean of (score - 1)² or score² (Mao et al., Least squares GANs, ICCV 2017); ``bce``: the binary
        cross entropy of the logarithmic form (equation 1 of the paper on harmonization).
    """
    wanted = torch.full_like(scores, float(real))
    if form == "bce":
        return F.binary_cross_entropy_with_logits(scores, wanted)
    return F.mse_loss(scores, wanted)


def discriminator_loss(real: Tensor, fake: Tensor, form: AdversarialForm = "lsgan") -> Tensor:
    """Return the mean of what scores of real and of generated slices cost a discriminator."""
    return (adversarial_loss(real, real=True, form=form) + adversarial_loss(fake, real=False, form=form)) / 2


class ReplayPool(nn.Module):
    """Generated slices of earlier steps, so that a discriminator does not forget what it saw.

    Shrivastava et al.: Learning from simulated and unsupervised images through adversarial training, CVPR 2017. The
    slices are buffers: they are part of the state of a training.

    Parameters
    ----------
    capacity: slices; 0: none is kept, every slice is given back as it is.
    size: (Y, X) of the slices.
    """

    slices: Tensor
    filled: Tensor

    def __init__(self, capacity: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.register_buffer("slices", torch.zeros(capacity, 1, *size))
        self.register_buffer("filled", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def exchange(self, images: Tensor, rng: np.random.Generator) -> Tensor:
        """Return as many slices (B, 1, Y, X): in half of the cases an earlier one, whose place the new one takes."""
        capacity = self.slices.shape[0]
        if capacity == 0:
            return images.detach()
        filled, given = int(self.filled), []
        for image in images.detach().float():
            if filled < capacity:
                self.slices[filled] = image
                filled += 1
                given.append(image)
            elif rng.random() < 0.5:
                place = int(rng.integers(capacity))
                given.append(self.slices[place].clone())
                self.slices[place] = image
            else:
                given.append(image)
        self.filled.fill_(filled)
        return torch.stack(given).to(images.dtype)

    def draw(self, count: int, rng: np.random.Generator) -> Tensor | None:
        """Return so many earlier slices (count, 1, Y, X), the same one perhaps twice; None: there are none."""
        filled = int(self.filled)
        return self.slices[rng.integers(filled, size=count).tolist()] if filled else None
