"""The pictures of one case: a grey base per plane, label layers that the page paints, names at the centroids."""

from __future__ import annotations

import itertools
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from nnunet_spine_ext.core.labels import DISC_OFFSET
from nnunet_spine_ext.core.volume import Array, Volume
from nnunet_spine_ext.render.colours import present_ids
from nnunet_spine_ext.render.overlay import draw_marks, paint, scale_bar_mm
from nnunet_spine_ext.render.png import encode_jpeg, encode_png
from nnunet_spine_ext.render.sheet import contact_sheet
from nnunet_spine_ext.render.slices import View
from nnunet_spine_ext.report.collect import Case
from nnunet_spine_ext.report.compare import Change, change_between
from nnunet_spine_ext.report.layers import Layer, layer_of
from nnunet_spine_ext.report.material import Material, prepare, read_image, read_masks
from nnunet_spine_ext.report.naming import FIRST_SACRAL, Naming

# Longest side in pixels and JPEG quality; the first pair that keeps a case inside its budget is used.
STEPS = ((840, 80), (700, 78), (560, 75), (480, 70), (400, 62), (320, 52), (240, 42))
_AXIAL_SHARE = 0.75
_NARROWEST = 0.3
_T13 = 28
_THUMB = 132
_THUMB_MARGIN_MM = 12.0
_THUMB_QUALITY = 68
_SHEET_PIXELS = 900


@dataclass(frozen=True)
class Mark:
    """A name at a point of a picture, in pixels."""

    x: float
    y: float
    text: str


@dataclass(frozen=True)
class Picture:
    """One plane: the grey base as data URI and the label layers by name.

    `margin` pixels left and right of the picture are black. Layers are ``classes``, ``instances`` and the same with
    ``before-`` in front; they cover the picture between its margins.
    """

    plane: str
    width: int
    height: int
    margin: int
    base: str | None
    layers: Mapping[str, Layer]
    edges: Mapping[str, str]
    bar_mm: float
    bar_px: float
    note: str
    marks: tuple[Mark, ...] = ()
    mark_px: float = 12.0


@dataclass(frozen=True)
class CasePictures:
    """All that the masks and the image of a case give: pictures, facts, volumes in millilitres, notes.

    `sheet` is a PNG of the three planes, painted, when it was asked for.
    """

    pictures: tuple[Picture, ...] = ()
    thumbnail: str | None = None
    facts: Mapping[str, str] = field(default_factory=dict)
    volumes_ml: Mapping[int, float] = field(default_factory=dict)
    instances_ml: Mapping[int, float] = field(default_factory=dict)
    vertebrae: tuple[tuple[int, float], ...] = ()
    change: Change | None = None
    sheet: bytes | None = None
    notes: tuple[str, ...] = ()

    @property
    def counts(self) -> dict[str, int]:
        """Number of vertebrae, discs and endplates; empty without instances."""
        if not self.instances_ml:
            return {}
        # The sacrum is one structure, not a vertebra to count.
        kinds = [n // 100 for n in self.instances_ml if n % 100 < FIRST_SACRAL or n % 100 == _T13]
        return {"vertebrae": kinds.count(0), "discs": kinds.count(1), "endplates": kinds.count(2)}


def draw_case(
    case: Case, image: Path | None, naming: Naming, *, budget: int, before: Path | None = None, sheet: bool = False
) -> CasePictures:
    """Draw the three planes of a case within a budget of bytes (before base64).

    Parameters
    ----------
    before: folder of earlier masks. sheet: also make a PNG of the planes.

    Raises
    ------
    CaseError: the predicted mask cannot be read. Any other unreadable file is a note.
    """
    if case.prediction is None:
        return CasePictures()
    notes: list[str] = []
    masks = read_masks(case, before, notes)
    shown = read_image(image, notes)
    volumes = _millilitres(masks.predicted)
    if not volumes:
        notes.append("the predicted mask is empty")
    material = prepare(masks, shown, naming, numbered=case.numbered, notes=notes)
    heights = [(n, float(p[2])) for n, p in material.points.items() if n < DISC_OFFSET]
    return CasePictures(
        pictures=_within(material, budget, notes),
        thumbnail=_thumbnail(material),
        facts=_facts(masks.predicted),
        volumes_ml=volumes,
        instances_ml=_millilitres(masks.instances) if masks.instances is not None else {},
        vertebrae=tuple(sorted(heights, key=lambda item: -item[1])),
        change=change_between(masks.before, masks.predicted) if masks.before is not None else None,
        sheet=_sheet(material) if sheet else None,
        notes=tuple(notes),
    )


def _millilitres(mask: Volume) -> dict[int, float]:
    return {n: count * mask.voxel_volume / 1000 for n, count in sorted(present_ids(mask.array).items())}


def _within(material: Material, budget: int, notes: list[str]) -> tuple[Picture, ...]:
    for size, quality in STEPS:
        pictures = tuple(_picture(material, laid_out, note, size, quality) for laid_out, note in material.views)
        # 4 characters of base64 hold 3 bytes.
        if sum(_length(picture) for picture in pictures) * 3 // 4 <= budget:
            return pictures
    notes.append("the pictures were left out: they do not fit into the size allowed for the report (--max-size)")
    return ()


def _length(picture: Picture) -> int:
    return len(picture.base or "") + sum(len(layer.data) for layer in picture.layers.values())


def _picture(material: Material, laid_out: View, note: str, size: int, quality: int) -> Picture:
    wanted = round(size * _AXIAL_SHARE) if laid_out.plane == "axial" else size
    scaled = _resized(laid_out, wanted)
    height, width = scaled.size
    # A narrow picture gets black margins, so that its letters do not cover the spine.
    margin = max(0, round((_NARROWEST * height - width) / 2))
    base = None
    if material.image is not None:
        grey = np.pad(scaled.grey(material.image, material.limits), ((0, 0), (margin, margin)))
        base = _uri("jpeg", encode_jpeg(grey, quality))
    layers = {name: layer_of(scaled, volume, material.naming[name].colours) for name, volume in material.layers.items()}
    marks = _marks(material, scaled, margin) if "instances" in material.layers else ()
    bar = scale_bar_mm(scaled)
    return Picture(
        plane=scaled.plane,
        width=width + 2 * margin,
        height=height,
        margin=margin,
        base=base,
        layers=layers,
        edges=scaled.edges,
        bar_mm=bar,
        bar_px=round(bar / scaled.pixel_mm, 1),
        note=note,
        marks=marks,
        mark_px=_mark_size(marks),
    )


def _resized(laid_out: View, size: int) -> View:
    scale = size / max(laid_out.size)
    return replace(laid_out, size=(max(1, round(laid_out.size[0] * scale)), max(1, round(laid_out.size[1] * scale))))


def _marks(material: Material, laid_out: View, margin: int) -> tuple[Mark, ...]:
    """Names of the vertebrae that the picture shows."""
    ids = laid_out.labels(material.layers["instances"])
    naming = material.naming["instances"]
    visible = set(present_ids(ids))
    height, width = laid_out.size
    marks = []
    for instance, point in material.points.items():
        if instance >= DISC_OFFSET or instance not in visible:
            continue
        x, y = (float(v) for v in laid_out.project(point))
        inside = 0 <= x < width and 0 <= y < height
        # An axial picture cuts parts of neighbours whose bodies are elsewhere: only the body it cuts is named.
        if inside and (laid_out.plane != "axial" or ids[int(y), int(x)] == instance):
            marks.append(Mark(round(x + margin, 1), round(y, 1), naming.name(instance)))
    return tuple(sorted(marks, key=lambda mark: (mark.y, mark.x)))


def _mark_size(marks: tuple[Mark, ...]) -> float:
    """Letters small enough that neighbours do not overlap."""
    gaps = [b.y - a.y for a, b in itertools.pairwise(marks)]
    # Not the smallest gap: the ring of C1 lies beside the dens, at nearly the same height.
    narrow = float(np.quantile(gaps, 0.2)) if gaps else 30.0
    return round(float(np.clip(0.65 * narrow, 10.0, 18.0)), 1)


def _painted(material: Material, laid_out: View, *, outline: bool) -> Array:
    rgb = np.zeros((*laid_out.size, 3), dtype=np.uint8)
    if material.image is not None:
        rgb[:] = laid_out.grey(material.image, material.limits)[..., None]
    alpha = 0.5 if material.image is not None else 0.85
    labels = laid_out.labels(material.classes)
    return paint(rgb, labels, material.naming["classes"].colours, alpha=alpha, outline=outline)


def _thumbnail(material: Material) -> str:
    """Return the sagittal picture, small, painted with the classes."""
    whole = material.views[0][0]
    close = whole.focused(whole.cut(material.classes) != 0, _THUMB_MARGIN_MM, _THUMB)
    return _uri("jpeg", encode_jpeg(_painted(material, _resized(close, _THUMB), outline=False), _THUMB_QUALITY))


def _sheet(material: Material) -> bytes:
    """Return the three planes side by side, for papers."""
    scaled = [_resized(laid_out, _SHEET_PIXELS) for laid_out, _ in material.views]
    rows = [[draw_marks(_painted(material, one, outline=True), one) for one in scaled]]
    return encode_png(contact_sheet(rows, background=(255, 255, 255)))


def _facts(predicted: Volume) -> dict[str, str]:
    spacing = " × ".join(f"{v:.3g}" for v in predicted.spacing)
    return {
        "Voxels": " × ".join(str(n) for n in predicted.shape),
        "Voxel size": f"{spacing} mm",
        "Axis order": predicted.orientation,
    }


def _uri(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{b64encode(content).decode('ascii')}"
