"""The pictures of one case: a grey base per plane, transparent label layers above it, names at the centroids."""

from __future__ import annotations

import itertools
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from nnunet_spine_ext.core.errors import CaseError
from nnunet_spine_ext.core.io import read_volume
from nnunet_spine_ext.core.labels import DISC_OFFSET, Colour
from nnunet_spine_ext.core.volume import Array, Volume
from nnunet_spine_ext.measure.centroids import centroids
from nnunet_spine_ext.render.choose import choose_position, curve, deviation_mm
from nnunet_spine_ext.render.colours import palette, present_ids, whole_labels
from nnunet_spine_ext.render.overlay import outline_mask, paint, scale_bar_mm
from nnunet_spine_ext.render.png import encode_jpeg, encode_layer
from nnunet_spine_ext.render.slices import PLANES, View, view
from nnunet_spine_ext.render.window import Window, window
from nnunet_spine_ext.report.collect import Case
from nnunet_spine_ext.report.naming import FIRST_SACRAL, Naming, instance_naming

# Longest side in pixels and JPEG quality; the first pair that keeps a case inside its budget is used.
STEPS = ((840, 80), (700, 78), (560, 75), (480, 70), (400, 62), (320, 52), (240, 42))
_AXIAL_SHARE = 0.75
_WINDOW_MARGIN_MM = 10.0
_AXIAL_MARGIN_MM = 35.0
# A spine that leaves a straight plane by more than this is shown along its curve.
_CURVED_MM = 8.0
_NARROWEST = 0.3
_T13 = 28
_THUMB = 132
_THUMB_MARGIN_MM = 12.0
_THUMB_QUALITY = 68


@dataclass(frozen=True)
class Mark:
    """A name at a point of a picture, in pixels."""

    x: float
    y: float
    text: str


@dataclass(frozen=True)
class Picture:
    """One plane. `layers` maps ``classes`` and ``instances`` (and ``…-outline``) to data URIs."""

    plane: str
    width: int
    height: int
    base: str | None
    layers: Mapping[str, str]
    edges: Mapping[str, str]
    bar_mm: float
    bar_px: float
    note: str
    marks: tuple[Mark, ...] = ()
    mark_px: float = 12.0


@dataclass(frozen=True)
class CasePictures:
    """All that the masks and the image of a case give: pictures, facts and notes."""

    pictures: tuple[Picture, ...] = ()
    thumbnail: str | None = None
    facts: Mapping[str, str] = field(default_factory=dict)
    volumes_ml: Mapping[int, float] = field(default_factory=dict)
    instance_counts: Mapping[str, int] = field(default_factory=dict)
    vertebrae: tuple[tuple[int, float], ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Material:
    """What is drawn, in RAS order on one grid."""

    image: Volume | None
    limits: Window
    classes: Volume
    instances: Volume | None
    points: Mapping[int, Array]
    views: tuple[tuple[View, str], ...]
    class_naming: Naming
    instance_naming: Naming


def draw_case(case: Case, image: Path | None, naming: Naming, *, budget: int) -> CasePictures:
    """Draw the three planes of a case within a budget of bytes (before base64).

    Raises
    ------
    CaseError: the predicted mask cannot be read. An unreadable image or instance mask is a note.
    """
    if case.prediction is None:
        return CasePictures()
    notes: list[str] = []
    predicted = whole_labels(read_volume(case.prediction))
    shown = _image(image, notes)
    instances = _instances(case, predicted, notes)
    counts = present_ids(predicted.array)
    if not counts:
        notes.append("the predicted mask is empty")
    material = _prepare(predicted, shown, instances, naming, numbered=case.numbered, notes=notes)
    millilitres = {n: count * predicted.voxel_volume / 1000 for n, count in sorted(counts.items())}
    heights = [(n, float(p[2])) for n, p in material.points.items() if n < DISC_OFFSET]
    return CasePictures(
        _within(material, budget, notes),
        _thumbnail(material),
        _facts(predicted),
        millilitres,
        _instance_counts(instances),
        tuple(sorted(heights, key=lambda item: -item[1])),
        tuple(notes),
    )


def _image(path: Path | None, notes: list[str]) -> Volume | None:
    if path is None:
        notes.append("the image was not found: labels only (name its folder with -i)")
        return None
    try:
        return read_volume(path).to("RAS")
    except CaseError as error:
        notes.append(f"the image {path.name} {error.found}: labels only")
        return None


def _instances(case: Case, predicted: Volume, notes: list[str]) -> Volume | None:
    if case.instances is None:
        return None
    try:
        found = whole_labels(read_volume(case.instances))
    except CaseError as error:
        notes.append(f"the instance mask {error.found}")
        return None
    if not found.same_grid(predicted):
        notes.append("the instance mask is on another grid than the predicted mask and was resampled for this picture")
        return found.resample_like(predicted, order=0)
    return found


def _prepare(
    predicted: Volume,
    image: Volume | None,
    instances: Volume | None,
    naming: Naming,
    *,
    numbered: bool,
    notes: list[str],
) -> _Material:
    classes = predicted.to("RAS")
    separated = instances.to("RAS") if instances is not None else None
    if image is not None and not classes.same_grid(image):
        notes.append("image and mask are on different grids; the mask was resampled for this picture")
        classes = classes.resample_like(image, order=0)
        separated = separated.resample_like(image, order=0) if separated is not None else None
    points: dict[int, Array] = {}
    if separated is not None:
        bodies = classes if naming.is_nnunet14 else None
        points = {n: separated.world(p) for n, p in centroids(separated, bodies).items()}
    limits = _limits(image, classes) if image is not None else (0.0, 1.0)
    views = _views(classes, naming)
    return _Material(image, limits, classes, separated, points, views, naming, instance_naming(numbered=numbered))


def _limits(image: Volume, classes: Volume) -> Window:
    """Grey levels of the spine's neighbourhood: bright fat near a surface coil must not make the spine dark."""
    box = []
    for axis, spacing in enumerate(classes.spacing):
        others = tuple(n for n in range(3) if n != axis)
        places = np.flatnonzero(classes.array.any(axis=others))
        if places.size == 0:
            return window(image.array)
        margin = round(_WINDOW_MARGIN_MM / spacing)
        box.append(slice(max(0, int(places[0]) - margin), int(places[-1]) + 1 + margin))
    return window(image.array[tuple(box)])


def _views(classes: Volume, naming: Naming) -> tuple[tuple[View, str], ...]:
    """Choose a plane each: along the spine where it curves, the axial one close up."""
    found: list[tuple[View, str]] = []
    preferred = {"sagittal": naming.midline or naming.bodies, "coronal": naming.bodies or naming.midline}
    for plane in PLANES:
        if plane == "axial":
            level = choose_position(classes, plane)
            laid_out = view(classes, plane, level)
            mask = laid_out.cut(classes) != 0
            found.append((laid_out.focused(mask, _AXIAL_MARGIN_MM, 512), f"slice {level + 1} of {classes.shape[2]}"))
            continue
        line = curve(classes, plane, preferred[plane])
        if line is not None and deviation_mm(line, classes, plane) > _CURVED_MM:
            found.append((view(classes, plane, line), "curved"))
            continue
        place = choose_position(classes, plane, preferred[plane])
        count = classes.shape[0 if plane == "sagittal" else 1]
        found.append((view(classes, plane, place), f"slice {place + 1} of {count}"))
    return tuple(found)


def _within(material: _Material, budget: int, notes: list[str]) -> tuple[Picture, ...]:
    pictures: tuple[Picture, ...] = ()
    for size, quality in STEPS:
        pictures = tuple(_picture(material, laid_out, note, size, quality) for laid_out, note in material.views)
        # 4 characters of base64 hold 3 bytes.
        if sum(_length(picture) for picture in pictures) * 3 // 4 <= budget:
            return pictures
    notes.append("the pictures were left out: they do not fit into the size allowed for the report (--max-size)")
    return ()


def _length(picture: Picture) -> int:
    return len(picture.base or "") + sum(len(uri) for uri in picture.layers.values())


def _picture(material: _Material, laid_out: View, note: str, size: int, quality: int) -> Picture:
    wanted = round(size * _AXIAL_SHARE) if laid_out.plane == "axial" else size
    scaled = _resized(laid_out, wanted)
    height, width = scaled.size
    # A narrow picture gets black margins, so that its letters do not cover the spine.
    margin = max(0, round((_NARROWEST * height - width) / 2))
    base = None
    if material.image is not None:
        grey = np.pad(scaled.grey(material.image, material.limits), ((0, 0), (margin, margin)))
        base = _uri("jpeg", encode_jpeg(grey, quality))
    layers = _layers("classes", scaled.labels(material.classes), material.class_naming.colours, margin)
    marks: tuple[Mark, ...] = ()
    if material.instances is not None:
        ids = scaled.labels(material.instances)
        layers |= _layers("instances", ids, material.instance_naming.colours, margin)
        marks = _marks(material, scaled, ids, margin)
    bar = scale_bar_mm(scaled)
    return Picture(
        plane=scaled.plane,
        width=width + 2 * margin,
        height=height,
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


def _layers(kind: str, ids: Array, colours: Mapping[int, Colour], margin: int) -> dict[str, str]:
    chosen = palette(present_ids(ids), colours)
    entries = chosen.index(ids)
    border = np.pad(np.where(outline_mask(entries, 2), entries, 0).astype(np.uint8), ((0, 0), (margin, margin)))
    entries = np.pad(entries, ((0, 0), (margin, margin)))
    return {
        kind: _uri("png", encode_layer(entries, chosen)),
        f"{kind}-outline": _uri("png", encode_layer(border, chosen)),
    }


def _marks(material: _Material, laid_out: View, ids: Array, margin: int) -> tuple[Mark, ...]:
    """Names of the vertebrae that the picture shows."""
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
            marks.append(Mark(round(x + margin, 1), round(y, 1), material.instance_naming.name(instance)))
    return tuple(sorted(marks, key=lambda mark: (mark.y, mark.x)))


def _mark_size(marks: tuple[Mark, ...]) -> float:
    """Letters small enough that neighbours do not overlap."""
    gaps = [b.y - a.y for a, b in itertools.pairwise(marks)]
    # Not the smallest gap: the ring of C1 lies beside the dens, at nearly the same height.
    narrow = float(np.quantile(gaps, 0.2)) if gaps else 30.0
    return round(float(np.clip(0.65 * narrow, 10.0, 18.0)), 1)


def _thumbnail(material: _Material) -> str:
    """Return the sagittal picture, small, painted with the classes."""
    whole = material.views[0][0]
    close = whole.focused(whole.cut(material.classes) != 0, _THUMB_MARGIN_MM, _THUMB)
    laid_out = _resized(close, _THUMB)
    rgb = np.zeros((*laid_out.size, 3), dtype=np.uint8)
    if material.image is not None:
        rgb[:] = laid_out.grey(material.image, material.limits)[..., None]
    alpha = 0.5 if material.image is not None else 0.85
    painted = paint(rgb, laid_out.labels(material.classes), material.class_naming.colours, alpha=alpha, outline=False)
    return _uri("jpeg", encode_jpeg(painted, _THUMB_QUALITY))


def _facts(predicted: Volume) -> dict[str, str]:
    spacing = " × ".join(f"{v:.3g}" for v in predicted.spacing)
    return {
        "Voxels": " × ".join(str(n) for n in predicted.shape),
        "Voxel size": f"{spacing} mm",
        "Axis order": predicted.orientation,
    }


def _instance_counts(instances: Volume | None) -> dict[str, int]:
    if instances is None:
        return {}
    # The sacrum is one structure, not a vertebra to count.
    kinds = [n // 100 for n in present_ids(instances.array) if n % 100 < FIRST_SACRAL or n % 100 == _T13]
    return {"vertebrae": kinds.count(0), "discs": kinds.count(1), "endplates": kinds.count(2)}


def _uri(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{b64encode(content).decode('ascii')}"
