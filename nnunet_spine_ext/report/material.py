"""What the pictures of one case are cut from: image, masks and earlier masks on one grid, and where to cut."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nnunet_spine_ext.core.errors import CaseError
from nnunet_spine_ext.core.io import read_volume
from nnunet_spine_ext.core.volume import Array, Volume
from nnunet_spine_ext.measure.centroids import centroids
from nnunet_spine_ext.render.choose import choose_position, curve, deviation_mm
from nnunet_spine_ext.render.colours import whole_labels
from nnunet_spine_ext.render.slices import PLANES, View, view
from nnunet_spine_ext.render.window import Window, window
from nnunet_spine_ext.report.collect import Case
from nnunet_spine_ext.report.compare import find_mask
from nnunet_spine_ext.report.naming import Naming, instance_naming

_WINDOW_MARGIN_MM = 10.0
_AXIAL_MARGIN_MM = 35.0
# A spine that leaves a straight plane by more than this is shown along its curve.
_CURVED_MM = 8.0


@dataclass(frozen=True)
class Masks:
    """The masks of a case on the grid of the predicted one, before anything is reoriented; None: there is none."""

    predicted: Volume
    instances: Volume | None
    before: Volume | None
    before_instances: Volume | None


@dataclass(frozen=True)
class Material:
    """What is drawn, in RAS order on one grid. `layers` holds the label volumes by name, `naming` how to show them."""

    image: Volume | None
    limits: Window
    layers: Mapping[str, Volume]
    naming: Mapping[str, Naming]
    points: Mapping[int, Array]
    views: tuple[tuple[View, str], ...]

    @property
    def classes(self) -> Volume:
        """The predicted mask."""
        return self.layers["classes"]


def read_masks(case: Case, before: Path | None, notes: list[str]) -> Masks:
    """Read the masks of a case; whatever is missing or on another grid becomes a note.

    Raises
    ------
    CaseError: the predicted mask cannot be read, or there is none.
    """
    predicted = whole_labels(read_volume(case.prediction or Path(case.name)))
    instances = _optional(case.instances, predicted, "the instance mask", notes)
    earlier = find_mask(before, case.name)
    if before is not None and earlier is None:
        notes.append("there is no earlier version of this mask")
    earlier_instances = find_mask(before / "instances", case.name) if before is not None else None
    return Masks(
        predicted,
        instances,
        _optional(earlier, predicted, "the earlier mask", notes),
        _optional(earlier_instances, predicted, "the earlier instance mask", notes),
    )


def _optional(path: Path | None, grid: Volume, what: str, notes: list[str]) -> Volume | None:
    if path is None:
        return None
    try:
        found = whole_labels(read_volume(path))
    except CaseError as error:
        notes.append(f"{what} {error.found}")
        return None
    if not found.same_grid(grid):
        notes.append(f"{what} is on another grid than the predicted mask and was resampled for this picture")
        return found.resample_like(grid, order=0)
    return found


def read_image(path: Path | None, notes: list[str]) -> Volume | None:
    """Read the image of a case in RAS order; None and a note when there is none or it cannot be read."""
    if path is None:
        notes.append("the image was not found: labels only (name its folder with -i)")
        return None
    try:
        return read_volume(path).to("RAS")
    except CaseError as error:
        notes.append(f"the image {path.name} {error.found}: labels only")
        return None


def prepare(masks: Masks, image: Volume | None, naming: Naming, *, numbered: bool, notes: list[str]) -> Material:
    """Bring everything onto the grid of the image (of the mask when there is none) and choose the planes."""
    found = {
        "classes": masks.predicted,
        "instances": masks.instances,
        "before-classes": masks.before,
        "before-instances": masks.before_instances,
    }
    layers = {name: volume.to("RAS") for name, volume in found.items() if volume is not None}
    if image is not None and not layers["classes"].same_grid(image):
        notes.append("image and mask are on different grids; the mask was resampled for this picture")
        layers = {name: volume.resample_like(image, order=0) for name, volume in layers.items()}
    classes, instances = layers["classes"], layers.get("instances")
    points: dict[int, Array] = {}
    if instances is not None:
        bodies = classes if naming.is_nnunet14 else None
        points = {n: instances.world(p) for n, p in centroids(instances, bodies).items()}
    limits = _limits(image, classes) if image is not None else (0.0, 1.0)
    named = {name: instance_naming(numbered=numbered) if name.endswith("instances") else naming for name in layers}
    return Material(image, limits, layers, named, points, _views(classes, naming))


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
