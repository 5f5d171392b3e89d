"""Augmentation of nnU-Net whose result does not depend on how fast a machine was just then."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from batchgeneratorsv2.transforms.noise.gaussian_blur import GaussianBlurTransform
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms


def without_timing(transforms: ComposeTransforms) -> ComposeTransforms:
    """Return the same chain, changed in place: no transform chooses by the clock how it computes.

    nnU-Net's blur times a convolution against a Fourier transform and takes the quicker one. These differ by rounding,
    so two runs of one seed would differ, too.
    """
    for transform in _within(transforms):
        if isinstance(transform, GaussianBlurTransform):
            transform.benchmark = False
    return transforms


def _within(transform: Any) -> Iterator[Any]:
    """Yield a transform and those inside: a chain has `transforms`, what is applied at random `transform`."""
    yield transform
    inside = [
        *getattr(transform, "transforms", ()),
        *([transform.transform] if hasattr(transform, "transform") else []),
    ]
    for inner in inside:
        yield from _within(inner)
