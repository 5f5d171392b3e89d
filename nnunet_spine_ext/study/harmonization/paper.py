"""Numbers of "A Deep Learning Harmonization of Multi-Vendor MRI for Robust Intervertebral Disc Segmentation".

By Kim et al., 2024. They are means over slices of clinical images, to be put beside measured ones.
"""

from __future__ import annotations

from collections.abc import Mapping

from nnunet_spine_ext.study.harmonization.overlap import METRICS

Numbers = Mapping[str, str]


def _row(*values: float) -> Numbers:
    return {name: f"{value:.3f}" for name, value in zip(METRICS, values, strict=True)}


# Table 2: on target slices, by encoder and decoder.
SEGMENTERS: Mapping[str, Numbers] = {
    "resnet34-unet": _row(0.927, 0.864, 0.926, 0.929, 0.926),
    "resnet34-unet++": _row(0.921, 0.854, 0.921, 0.938, 0.907),
    "resnet34-deeplabv3": _row(0.921, 0.854, 0.920, 0.937, 0.906),
    "resnet50-unet": _row(0.922, 0.855, 0.922, 0.936, 0.910),
    "resnet50-unet++": _row(0.925, 0.861, 0.925, 0.941, 0.911),
    "resnet50-deeplabv3": _row(0.911, 0.838, 0.910, 0.920, 0.905),
    "resnet101-unet": _row(0.923, 0.858, 0.923, 0.939, 0.910),
    "resnet101-unet++": _row(0.923, 0.857, 0.922, 0.937, 0.910),
    "resnet101-deeplabv3": _row(0.913, 0.842, 0.922, 0.922, 0.908),
}
# Table 7: the same on slices of the other vendors, as they are.
ON_SOURCES: Mapping[str, Numbers] = {
    "resnet34-unet": _row(0.603, 0.531, 0.603, 0.971, 0.551),
    "resnet34-unet++": _row(0.594, 0.520, 0.596, 0.930, 0.555),
    "resnet34-deeplabv3": _row(0.862, 0.764, 0.862, 0.909, 0.830),
    "resnet50-unet": _row(0.693, 0.588, 0.693, 0.947, 0.615),
    "resnet50-unet++": _row(0.714, 0.627, 0.714, 0.967, 0.649),
    "resnet50-deeplabv3": _row(0.813, 0.711, 0.813, 0.910, 0.775),
    "resnet101-unet": _row(0.709, 0.613, 0.709, 0.960, 0.639),
    "resnet101-unet++": _row(0.678, 0.574, 0.678, 0.962, 0.597),
    "resnet101-deeplabv3": _row(0.654, 0.568, 0.654, 0.940, 0.607),
}
# Table 3.
NETWORKS: Mapping[str, Numbers] = {
    "cyclegan": _row(0.897, 0.815, 0.897, 0.894, 0.852),
    "sy": _row(0.898, 0.818, 0.897, 0.893, 0.855),
    "seg": _row(0.918, 0.850, 0.917, 0.940, 0.897),
}
# Table 4.
TERMS: Mapping[str, Numbers] = {
    "no-identity": _row(0.906, 0.830, 0.906, 0.917, 0.875),
    "no-harmonization": _row(0.906, 0.829, 0.906, 0.915, 0.878),
    "no-cycle": _row(0.903, 0.824, 0.903, 0.916, 0.874),
    "seg": _row(0.918, 0.850, 0.917, 0.940, 0.897),
}
# Table 5. Its first row is another CycleGAN (Modanwal et al.); its own without both losses stands in table 3.
METHODS: Mapping[str, Numbers] = {
    "cyclegan": _row(0.869, 0.775, 0.869, 0.873, 0.872),
    "rf": _row(0.914, 0.842, 0.913, 0.935, 0.895),
    "seg": _row(0.918, 0.850, 0.917, 0.940, 0.897),
    "full": _row(0.920, 0.853, 0.920, 0.940, 0.902),
}
# Table 5: without harmonization, trained on the target alone.
UNHARMONIZED: Mapping[str, Numbers] = {
    "nnunet": _row(0.907, 0.832, 0.907, 0.945, 0.875),
    "resnet101-unet": _row(0.709, 0.613, 0.709, 0.960, 0.639),
    "resnet34-deeplabv3": _row(0.862, 0.764, 0.862, 0.909, 0.830),
}
