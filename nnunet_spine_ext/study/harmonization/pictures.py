"""Figures of an evaluation that show slices: segmentations (9), the checkerboard (10), one panel per vendor (12)."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nnunet_spine_ext.core.io import write_bytes
from nnunet_spine_ext.core.volume import Array
from nnunet_spine_ext.render.overlay import outline_mask, paint
from nnunet_spine_ext.render.png import encode_png
from nnunet_spine_ext.render.sheet import contact_sheet
from nnunet_spine_ext.study.harmonization.arms import ARMS, FULL, NONE
from nnunet_spine_ext.study.harmonization.measured import broken_slices
from nnunet_spine_ext.study.harmonization.overlap import THRESHOLD

SHOWN = "shown"
# Pixels of a small slice are drawn larger, so that captions fit and edges are seen.
_WIDTH = 200
# Squares of the checkerboard along the longer side.
_SQUARES = 8
_DISC = {1: (230, 159, 0)}
_TRUTH = (0, 200, 120)
_SEGMENTED = (NONE, "nyul", "cyclegan", FULL)
_SHORT: Mapping[str, str] = {NONE: "as it is", "zscore": "z-score", "histogram": "histogram", "nyul": "Nyul",
                             "cyclegan": "CycleGAN", FULL: "+RF +Seg"}  # fmt: skip

_REFUSED = "*"
_COLUMNS = (
    "One slice per vendor, as it is in the first column; slices of the target are not harmonized, so their "
    "row has no other. An asterisk: the geometry gate would leave this slice as it is."
)


@dataclass(frozen=True)
class Shown:
    """Slices of one arm that are shown: images (N, Y, X) 0-255, disc probabilities and true masks of the same shape;
    vendors and names of the slices, and which of them the geometry gate would not pass (none said: all pass).
    """

    images: Array
    probabilities: Array
    masks: Array
    vendors: tuple[str, ...]
    names: tuple[str, ...]
    refused: tuple[bool, ...] = ()

    def title(self, number: int, text: str) -> str:
        """Return a caption of a slice, marked where the geometry gate would not pass it."""
        return f"{text} {_REFUSED}" if number < len(self.refused) and self.refused[number] else text

    def save(self, path: Path) -> None:
        """Write them; equal slices give equal bytes."""
        stream = io.BytesIO()
        np.savez_compressed(
            stream, images=np.rint(self.images).astype(np.uint8), masks=self.masks.astype(np.uint8),
            probabilities=np.rint(255 * self.probabilities).astype(np.uint8), vendors=np.array(self.vendors),
            names=np.array(self.names), refused=np.array(self.refused, dtype=bool),
        )  # fmt: skip
        write_bytes(path, stream.getvalue())


@dataclass(frozen=True)
class Picture:
    """A figure made of pixels: (H, W, 3) uint8."""

    slug: str
    title: str
    caption: str
    pixels: Array

    def png(self) -> bytes:
        """Return it as PNG."""
        return encode_png(self.pixels)


def read_shown(folder: Path) -> dict[str, Shown]:
    """Return the slices to show by arm, in the order of the tables; raises CaseError for a broken file."""
    found = {}
    for arm in ARMS:
        path = folder / SHOWN / f"{arm}.npz"
        if not path.is_file():
            continue
        try:
            with np.load(path, allow_pickle=False) as content:
                found[arm] = Shown(
                    content["images"].astype(np.float32), content["probabilities"] / np.float32(255), content["masks"],
                    tuple(str(name) for name in content["vendors"]), tuple(str(name) for name in content["names"]),
                    # Slices of earlier versions do not say it.
                    tuple(bool(one) for one in content["refused"]) if "refused" in content else (),
                )  # fmt: skip
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise broken_slices(path, error) from error
    return found


def pictures(shown: Mapping[str, Shown], target: Sequence[str]) -> tuple[Picture, ...]:
    """Return figures 9, 10 and 12; those for which nothing is there are left out.

    `target`: vendors whose slices no method changes; they are shown as they are only.
    """
    if NONE not in shown:
        return ()
    found = (figure9(shown, target), figure10(shown, target), figure12(shown, target))
    return tuple(one for one in found if one is not None)


def figure9(shown: Mapping[str, Shown], target: Sequence[str]) -> Picture | None:
    """Return segmentations by method: predictions filled, the truth as an outline."""
    arms = [name for name in _SEGMENTED if name in shown]
    base = shown[NONE]
    rows, captions = [], []
    for number, vendor in enumerate(base.vendors):
        changed = _changed(arms, vendor, target)
        rows.append([_segmented(shown[arm], number) for arm in changed])
        captions.append([vendor if arm == NONE else shown[arm].title(number, _SHORT[arm]) for arm in changed])
    caption = f"Orange: discs as the target's segmenter finds them; green: their true outline. {_COLUMNS}"
    return _picture("figure9", "Segmentations", caption, rows, captions)


def _changed(arms: Sequence[str], vendor: str, target: Sequence[str]) -> list[str]:
    """Return the arms that have a slice of a vendor of their own."""
    return [arm for arm in arms if arm == NONE or vendor not in target]


def figure10(shown: Mapping[str, Shown], target: Sequence[str]) -> Picture | None:
    """Return source and harmonized slice woven into a checkerboard: edges that do not go on have moved."""
    arm = FULL if FULL in shown else next((name for name in reversed(list(shown)) if name != NONE), None)
    if arm is None:
        return None
    base, other = shown[NONE], shown[arm]
    rows, captions = [], []
    for number, vendor in enumerate(base.vendors):
        if vendor in target:
            continue
        pair = base.images[number], other.images[number]
        rows.append([_grey(one) for one in (*pair, checkerboard(*pair))])
        captions.append([vendor, other.title(number, _SHORT.get(arm, arm)), "woven"])
    return _picture("figure10", "Geometry: source and harmonized slice, woven", "Squares of the last column are taken "
                    "from both in turn: an edge that breaks at their borders has moved. An asterisk: the geometry gate "
                    "would leave this slice as it is.", rows, captions)  # fmt: skip


def figure12(shown: Mapping[str, Shown], target: Sequence[str]) -> Picture | None:
    """Return one row per vendor, one column per method."""
    arms = [name for name in _SHORT if name in shown]
    chosen = [_changed(arms, vendor, target) for vendor in shown[NONE].vendors]
    rows = [[_grey(shown[arm].images[number]) for arm in changed] for number, changed in enumerate(chosen)]
    captions = [
        [vendor if arm == NONE else shown[arm].title(number, _SHORT[arm]) for arm in changed]
        for number, (vendor, changed) in enumerate(zip(shown[NONE].vendors, chosen, strict=True))
    ]
    caption = f"{_COLUMNS} All on one scale of grey."
    return _picture("figure12", "Harmonized slices by vendor", caption, rows, captions)


def checkerboard(one: Array, other: Array, squares: int = _SQUARES) -> Array:
    """Return squares of two images (Y, X) in turn, the first at the top left; `squares` along the longer side."""
    side = max(1, -(-max(one.shape) // squares))
    y, x = np.indices(one.shape)
    return np.where((y // side + x // side) % 2 == 0, one, other)


def _segmented(shown: Shown, number: int) -> Array:
    rgb = _grey(shown.images[number])
    zoom = rgb.shape[0] // shown.images.shape[1]
    found, truth = (
        _zoomed(mask.astype(np.uint8), zoom)
        for mask in (shown.probabilities[number] >= THRESHOLD, shown.masks[number] == 1)
    )
    rgb = paint(rgb, found, _DISC, outline=False)
    rgb[outline_mask(truth)] = _TRUTH
    return rgb


def _grey(image: Array) -> Array:
    zoom = -(-_WIDTH // image.shape[1])
    return np.repeat(_zoomed(np.clip(np.rint(image), 0, 255).astype(np.uint8), zoom)[..., None], 3, axis=-1)


def _zoomed(image: Array, zoom: int) -> Array:
    return np.repeat(np.repeat(image, zoom, axis=0), zoom, axis=1)


def _picture(
    slug: str, title: str, caption: str, rows: Sequence[Sequence[Array]], captions: Sequence[Sequence[str]]
) -> Picture | None:
    if not rows or not rows[0]:
        return None
    return Picture(slug, title, caption, contact_sheet(rows, captions=captions))
