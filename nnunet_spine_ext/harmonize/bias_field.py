"""Slow changes of brightness across a scan (coil sensitivity), estimated with N4 and divided out.

N4: Tustison et al., IEEE TMI 2010; SimpleITK's implementation.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from nnunet_spine_ext.core.errors import CaseError
from nnunet_spine_ext.core.volume import Volume


@dataclass(frozen=True)
class N4Settings:
    """How the field is estimated.

    Parameters
    ----------
    grid_mm: voxels are joined until they are about this long; slices that are thicker stay.
    levels: resolutions of the spline, each twice as fine as the one before.
    iterations: at most, per level.
    """

    grid_mm: float = 6.0
    levels: int = 3
    iterations: int = 30

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as plain JSON."""
        return asdict(self)


def correct_bias(image: Volume, settings: N4Settings | None = None) -> Volume:
    """Return the image divided by its bias field; the field is 1 on average over the foreground.

    Foreground is what exceeds half of the mean: Otsu's threshold takes tissue far from the coil for air.

    Integer images stay integer (rounded), of the same type.

    Raises
    ------
    CaseError: an image with values below zero or without foreground.
    """
    import SimpleITK as sitk  # noqa: N813

    chosen = settings or N4Settings()
    # One thread: sums in another order would change the last bits from run to run.
    threads = sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    try:
        whole = sitk.GetImageFromArray(image.array.transpose(2, 1, 0).astype(np.float32))
        whole.SetSpacing(image.spacing)
        inside = image.array > max(float(image.array.mean()) / 2, 0.0)
        bright = sitk.GetImageFromArray(inside.transpose(2, 1, 0).astype(np.uint8))
        bright.SetSpacing(image.spacing)
        if not inside.any() or float(image.array.min()) < 0:
            raise CaseError(
                "E-INT-N4",
                found="an image without bright tissue, or with values below zero",
                expected="magnitudes",
                fix="leave --n4 out",
            )
        sizes = zip(image.spacing, image.shape, strict=True)
        factors = [max(1, min(round(chosen.grid_mm / size), count // 4)) for size, count in sizes]
        method = sitk.N4BiasFieldCorrectionImageFilter()
        method.SetMaximumNumberOfIterations([chosen.iterations] * chosen.levels)
        method.Execute(sitk.Shrink(whole, factors), sitk.Shrink(bright, factors))
        logarithm = sitk.GetArrayFromImage(method.GetLogBiasFieldAsImage(whole)).transpose(2, 1, 0)
    finally:
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(threads)
    field = np.exp(logarithm - logarithm[inside].mean())
    corrected = (image.array / field).astype(np.float32)
    if image.array.dtype.kind not in "iu":
        return image.with_array(corrected)
    limits = np.iinfo(image.array.dtype)
    return image.with_array(np.clip(np.rint(corrected), limits.min, limits.max).astype(image.array.dtype))
