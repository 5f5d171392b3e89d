"""Reading the channels of a case as nnU-Net's readers do, also from files that those readers refuse or mistake."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from nnunetv2.imageio.nibabel_reader_writer import NibabelIOWithReorient

from nnunet_spine_ext.core.io import NIFTI_SUFFIXES, read_volume
from nnunet_spine_ext.core.volume import Array, Volume


def read_case(
    files: Sequence[Path], affine: Array | None = None, *, reorient: bool = True
) -> tuple[Array, dict[str, Any]]:
    """Read the channels of a case as nnU-Net's readers do: (C, z, y, x) float32, and properties.

    NIfTI files go through nnU-Net's reorienting reader; other formats, 4-D files with one volume, files whose suffix
    lies about compression, and files read with another affine than their own take the same way from a `Volume`. Values
    that are not finite become 0.

    Parameters
    ----------
    affine: replaces the one the files would be read with (a header with two that disagree).
    reorient: turn to RAS; False keeps the axes as they are stored, as nnU-Net's other readers do.
    """
    if reorient and affine is None and all(_is_plain_nifti(f) for f in files):
        data, properties = NibabelIOWithReorient().read_images([str(f) for f in files])
    else:
        volumes = [read_volume(f) for f in files]
        if affine is not None:
            volumes = [Volume(v.array, affine) for v in volumes]
        turned = [v.to("RAS") for v in volumes] if reorient else volumes
        data = np.stack([v.array.transpose(2, 1, 0) for v in turned]).astype(np.float32)
        properties = {
            "nibabel_stuff": {"original_affine": volumes[0].affine, "reoriented_affine": turned[0].affine},
            "spacing": [float(np.float32(s)) for s in turned[0].spacing[::-1]],
        }
    return np.nan_to_num(data, copy=False, nan=0.0, posinf=0.0, neginf=0.0), properties


def _is_plain_nifti(file: Path) -> bool:
    """Whether nnU-Net's reader takes the file: a 3-D NIfTI whose suffix tells the truth about compression."""
    import nibabel as nib

    name = file.name.lower()
    if not name.endswith(NIFTI_SUFFIXES):
        return False
    with file.open("rb") as stream:
        truthful = (stream.read(2) == b"\x1f\x8b") == name.endswith(".gz")
    return truthful and len(nib.Nifti1Image.from_filename(file).shape) == 3
