"""CT of a painted spine: Hounsfield numbers, a kernel, noise of the kernel's colour. No beam hardening, no streaks."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from nnunet_spine_ext.core.volume import Volume
from nnunet_spine_ext.phantom.protocols import Protocol
from nnunet_spine_ext.phantom.signal import Texture
from nnunet_spine_ext.phantom.tissues import TISSUES
from nnunet_spine_ext.phantom.weightings import hounsfield

Array = np.ndarray[Any, np.dtype[Any]]

_SLAB_VOXELS = 6_000_000
_FWHM_PER_SD = 2.3548
# Hounsfield units that a texture of one relative unit stands for: trabeculae vary more than soft tissue.
_SOFT_TEXTURE = 60.0
_BONE_TEXTURE = 450.0
_BONE = ("marrow", "haemangioma", "oedema", "modic_fat", "sclerosis", "cortical", "endplate")
_LOWEST, _HIGHEST = -1024, 3071


def form_ct(
    tissue: Array,
    semantic: Volume,
    protocol: Protocol,
    texture: Texture,
    generator: torch.Generator,
    *,
    marrow_fat: float | None = None,
    dose: float = 1.0,
) -> Volume:
    """Form one CT image.

    Parameters
    ----------
    tissue: uint8 on the supersampled grid, shape a whole multiple of the image's along each axis.
    semantic: any labels on the image's grid, for the grid.
    generator: randomness of the noise. marrow_fat: fat fraction of marrow, which tells its density.
    dose: relative to the protocol's; noise falls with its root.

    Returns
    -------
    int16 volume of Hounsfield units, -1024 to 3071, on the grid of `semantic`.

    Raises
    ------
    ValueError: the tissue map is no whole multiple of the grid.
    """
    shape = semantic.shape
    if any(fine % coarse for fine, coarse in zip(tissue.shape, shape, strict=True)):
        msg = f"a tissue map of shape {tissue.shape} is no multiple of the grid {shape}"
        raise ValueError(msg)
    image = _average(tissue, shape, hounsfield(marrow_fat), texture)
    sds = [protocol.kernel / _FWHM_PER_SD / size for size in semantic.spacing]
    noise = torch.randn(shape, generator=generator) * (protocol.noise / dose**0.5)
    # The kernel acts on both: what smooths edges smooths noise too.
    values = _blur(image + noise, sds)
    rounded = torch.round(values).clamp(_LOWEST, _HIGHEST)
    return semantic.with_array(rounded.numpy().astype(np.int16))


def _average(tissue: Array, shape: tuple[int, ...], numbers: Array, texture: Texture) -> Tensor:
    """Return the mean number of the sub-voxels of every voxel, (X, Y, Z) float32."""
    table = numbers.astype(np.float32)
    weights = np.array([_BONE_TEXTURE if name in _BONE else _SOFT_TEXTURE for name in TISSUES], dtype=np.float32)
    weights[table <= _LOWEST + 24] = 0.0
    fat = float(table[TISSUES.index("fat")])
    factors = [fine // coarse for fine, coarse in zip(tissue.shape, shape, strict=True)]
    count, step = tissue.shape[2], factors[2]
    per_slab = max(1, _SLAB_VOXELS // (tissue.shape[0] * tissue.shape[1] * step)) * step
    slabs = []
    for start in range(0, count, per_slab):
        slab = slice(start, min(count, start + per_slab))
        part = np.ascontiguousarray(tissue[:, :, slab].transpose(2, 0, 1))
        factor, streak = texture.factors(part, slab, count)
        value = torch.from_numpy(table[part]) + (factor - 1) * torch.from_numpy(weights[part])
        value = value + (fat - value) * streak
        blocks = value.view(-1, step, shape[0], factors[0], shape[1], factors[1])
        slabs.append(blocks.mean(dim=(1, 3, 5)))
    return torch.cat(slabs).permute(1, 2, 0)


def _blur(image: Tensor, sds: list[float]) -> Tensor:
    """Gaussian blur with a standard deviation in voxels per axis; edges are continued."""
    for axis, sd in enumerate(sds):
        reach = int(np.ceil(3 * sd))
        if sd < 0.05 or image.shape[axis] == 1:
            continue
        offsets = torch.arange(-reach, reach + 1, dtype=torch.float32)
        kernel = torch.exp(-0.5 * (offsets / sd) ** 2)
        kernel = kernel / kernel.sum()
        size = image.shape[axis]
        indices = [(torch.arange(size) + int(offset)).clamp(0, size - 1) for offset in offsets]
        image = sum(
            (weight * image.index_select(axis, index) for weight, index in zip(kernel, indices, strict=True)),
            torch.zeros(()),
        )
    return image
