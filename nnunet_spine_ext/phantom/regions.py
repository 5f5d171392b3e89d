"""Soft tissue of neck, chest, abdomen, pelvis and head, placed relative to the canal's axis.

Everything is coarse on purpose: it has to give a network the right neighbours, edges and brightness around the spine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nnunet_spine_ext.phantom.shapes import Field
from nnunet_spine_ext.phantom.spine import Spine
from nnunet_spine_ext.phantom.tissues import TISSUE_ID

Mask = NDArray[np.bool_]
Tissue = NDArray[np.uint8]


@dataclass(frozen=True)
class Place:
    """Where the points of a slab lie in the body (float32, broadcastable to the slab; mm).

    `right` and `front` of the canal's axis, vertebral `level`, world `z`, `depth` below the skin, `fat` thickness
    there, `body` front of the bodies, half width of the back `muscle`, `behind` = distance from the skin of the back.
    """

    right: Field
    front: Field
    level: Field
    z: Field
    depth: Field
    fat: Field
    body: Field
    muscle: Field
    behind: Field
    scale: float

    def between(self, low: float, high: float) -> Mask:
        """Return where the level lies in a range."""
        return (self.level >= low) & (self.level < high)

    def follow(self, levels: Sequence[float], values: Sequence[float]) -> Field:
        """Return a value that depends on the level."""
        return np.interp(self.level, levels, values).astype(np.float32)

    def column(
        self, right: Field | float, front: Field | float, half_right: Field | float, half_front: Field | float
    ) -> Mask:
        """Return an elliptic column around a path given by level."""
        return ((self.right - right) / half_right) ** 2 + ((self.front - front) / half_front) ** 2 < 1

    def touches(self, low: float, high: float) -> bool:
        """Return whether any point has a level in the range."""
        return bool(self.level.max() >= low and self.level.min() < high)


def put(out: Tissue, where: Mask, name: str) -> None:
    """Write a tissue where a (broadcastable) mask is true."""
    np.copyto(out, np.uint8(TISSUE_ID[name]), where=where)


def paint_inside(spine: Spine, place: Place, out: Tissue) -> None:
    """Paint one slab: wall, then the regions from back to front, then skin and air."""
    skin = np.float32(spine.parameters.body.skin)
    put(out, np.ones((1, 1, 1), bool), "muscle")
    paint_back(spine, place, out)
    if place.touches(0.5, 9.5):
        paint_neck(place, out)
    if place.touches(7.8, 19.5):
        paint_chest(place, out)
    if place.touches(17.5, 31.0):
        paint_abdomen(place, out)
    if place.touches(-9.0, 0.6):
        paint_head(spine, place, out)
    paint_vessels(place, out)
    put(out, place.depth < place.fat + skin, "fat")
    put(out, place.depth < skin, "skin")
    put(out, place.depth < 0, "air")


def paint_back(spine: Spine, place: Place, out: Tissue) -> None:
    """Muscles behind the transverse processes with their fat planes and streaks; fat beside them."""
    side, front, z = np.abs(place.right), place.front, place.z
    back = front < -9.0
    # The mass of the back muscles ends in a rounded edge; what lies beside it is mostly fat. Upwards and downwards this
    # fat runs out to the side, and the wall of the belly ends in it as a wedge.
    edge = place.muscle * (1 - np.float32(0.25) * np.clip((-front - 30.0) / 40.0, 0, 1) ** 2)
    runs_out = 55.0 * (np.clip(17.2 - place.level, 0, None) ** 2 + np.clip(place.level - 25.4, 0, None) ** 2)
    wedge = ((place.depth - place.fat - 9.0) / 10.0) ** 2 + (np.clip(-9.0 - front, 0, None) / 17.0) ** 2
    beside = back & (side > edge + runs_out) & (place.level > 15.8) & (place.level < 26.8)
    put(out, beside & (wedge > 1), "fat")
    wave = np.sin(0.21 * z) + np.sin(0.083 * z + 1.3)
    plane = 17.0 + 0.18 * (-front - 10.0) + 1.2 * np.sin(0.045 * z) + 0.8 * np.sin(0.09 * front + 0.02 * z)
    put(out, back & (np.abs(side - plane) < 0.9) & (place.level > 7), "fat")
    second = 36.0 + 0.12 * (-front - 10.0) + 1.2 * np.sin(0.04 * z + 1) + 0.8 * np.sin(0.08 * front)
    put(out, back & (np.abs(side - second) < 0.8) & (place.level > 15), "fat")
    neck = (place.level < 8.5) & (place.level > 0.5)
    for depth in (12.0, 20.0, 27.0):
        layer = np.abs(-front - depth - 8.0 - 0.25 * side - 1.2 * np.sin(0.11 * z + depth)) < 0.7
        put(out, neck & layer & (side > 3.0) & (side < place.muscle), "fat")
    amount = spine.parameters.body.muscle_fat * place.follow((5, 15, 22, 25), (0.8, 0.8, 1.1, 1.8))
    grain = np.sin(0.83 * place.right + 0.31 * front + 0.9 * wave) * np.sin(0.71 * front - 0.24 * place.right + wave)
    medial = 1.25 - side / np.maximum(place.muscle, 1.0)
    put(out, back & (side < edge) & (grain > 1.05 - 1.1 * amount * np.clip(medial, 0.2, 1.2)), "fat")


def paint_neck(place: Place, out: Tissue) -> None:
    """Airway, gullet, prevertebral muscles and the fat between them."""
    body = place.body
    neck = place.between(0.6, 8.3)
    cover = place.follow((0, 4, 5, 6, 8), (4.0, 4.5, 9.0, 13.0, 13.0))
    ahead = place.front - body
    pad = np.sign(place.right) * (25.0 + 3.0 * np.sin(0.06 * place.z))
    put(out, neck & (ahead > cover - 2) & place.column(pad, body + cover + 18.0, 13.0, 22.0), "fat")
    put(out, neck & place.column(np.sign(place.right) * 52.0, -14.0, 9.0, 22.0), "fat")
    sternomastoid = place.column(np.sign(place.right) * 44.0, body + 8.0, 9.0, 15.0)
    put(out, neck & sternomastoid, "muscle")
    put(out, place.between(4.6, 8.6) & place.column(0.0, body + cover + 9.0, 15.0, 11.0), "muscle")
    put(
        out, place.between(6.4, 9.0) & place.column(np.sign(place.right) * 17.0, body + cover + 8.0, 9.0, 12.0), "organ"
    )
    air_half = place.follow((-0.5, 1, 3.5, 4.2, 5.2, 6, 9.5), (11.0, 12.0, 10.0, 8.0, 4.5, 8.0, 9.0))
    air_deep = place.follow((-0.5, 1, 3.5, 4.2, 5.2, 6, 9.5), (9.0, 5.0, 5.5, 6.0, 8.0, 8.0, 8.5))
    air_front = body + cover + place.follow((-0.5, 3.5, 5, 6, 9.5), (9.0, 6.5, 10.0, 9.5, 10.0))
    airway = place.column(0.0, air_front, air_half, air_deep)
    put(out, place.between(-0.8, 10.2) & place.column(0.0, air_front, air_half + 2.0, air_deep + 2.0), "cartilage")
    put(out, place.between(-0.8, 10.2) & airway, "air_cavity")
    put(out, place.between(6.2, 18.0) & place.column(-3.0, body + 0.45 * cover + 1.5, 7.0, 3.6), "organ")


def _step(value: Field) -> Field:
    """Return a smooth rise from 0 to 1 over the range 0 to 1."""
    t = np.clip(value, 0, 1)
    return t * t * (3 - 2 * t)


def _dome(side: Field, front: Field) -> Field:
    """Return the level of the diaphragm: high in the middle behind, low at the sides, arched in between."""
    rise, fall = _step((side - 15.0) / 62.0), _step((front - 15.0) / 72.0)
    return np.float32(17.6) + np.float32(1.6) * rise - np.float32(1.4) * fall


def paint_chest(place: Place, out: Tissue) -> None:
    """Lungs beside spine and mediastinum, heart, fat in between."""
    side, front, body = np.abs(place.right), place.front, place.body
    wall = place.fat + 24.0
    dome = _dome(side, front)
    inside = (place.level > 8.4 + 0.9 * np.clip(side / 60.0 - 0.4, 0, 2)) & (place.level < dome) & (place.depth > wall)
    centre = np.where(place.level > 13, body + 62.0, body + 45.0)
    wide = 20.0 + place.follow((8, 12, 15, 17.5), (8.0, 14.0, 34.0, 30.0)) * np.exp(-(((front - centre) / 42.0) ** 2))
    gutter = (side > 34.0) & (place.behind > place.fat + 40.0)
    beside = (front > -4.0) & (side > place.follow((8, 12, 19), (22.0, 20.0, 26.0)))
    middle = (side < wide) & (front > body + 1.0)
    put(out, inside & (gutter | beside) & ~middle, "lung")
    core = inside & (front > body + 1.5) & (side < wide)
    put(out, core, "fat")
    warp = np.sin(0.05 * place.z + 0.04 * place.right)
    vessels = np.sin(0.13 * place.right + 1.4 * warp) + np.sin(0.11 * (front - body) + 0.03 * place.z)
    put(out, core & (front > body + 9.0) & (vessels > -0.9), "organ")
    put(out, core & (front > body + 14.0) & (vessels > 1.1) & (place.level < 13), "blood_flow")
    heart = ((place.right + 14.0) / 42.0) ** 2 + ((front - body - 62.0) / 40.0) ** 2
    heart = heart + ((place.level - 15.0) / 2.2) ** 2
    put(out, (heart < 1) & (place.level < dome + 0.4), "organ")
    chambers = np.sin(0.1 * place.z + 0.08 * place.right + 0.5) + np.sin(0.09 * (front - body) - 0.05 * place.z)
    put(out, (heart < 0.62) & (np.abs(chambers) > 0.22), "blood_flow")
    put(out, (heart < 1.0) & (heart > 0.62), "muscle")
    put(out, place.between(8.4, 10.4) & place.column(0.0, body + 22.0, 9.0, 8.5), "air_cavity")
    put(out, place.between(10.2, 17.6) & place.column(-4.0, body + 6.5, 7.5, 4.5), "organ")


def paint_abdomen(place: Place, out: Tissue) -> None:
    """Fat of the cavity with psoas, kidneys, liver and bowel; rectum and bladder below."""
    side, front, body, z = np.abs(place.right), place.front, place.body, place.z
    cavity = (place.level > _dome(side, front)) & (place.depth > place.fat + 18.0)
    # Behind, the cavity reaches around the muscles beside the spine; below, it ends in the funnel of the pelvic floor.
    cavity = cavity & (front > -4.0 - 10.0 * _step((side - 40.0) / 25.0))
    floor = 29.2 - 1.3 * np.clip(side / 75.0, 0, 1) ** 2 - 0.8 * np.clip((front - body - 20.0) / 90.0, 0, 1) ** 2
    put(out, cavity & (place.level < floor), "fat")
    warp = 1.6 * np.sin(0.043 * z + 0.031 * place.right) + 1.2 * np.sin(0.057 * front)
    blob = np.sin(0.11 * place.right + warp) + np.sin(0.10 * z - 0.6 * warp) + np.sin(0.12 * front + 0.8 * warp)
    # Loops bulge into the fat behind, above and below them: only their crests reach far.
    blob = blob - np.clip((body + 32.0 - front) / 9.0, 0, None)
    blob = blob - np.clip((20.2 - place.level) / 0.4, 0, None) - np.clip((place.level - 26.4) / 0.4, 0, None)
    put(out, cavity & (blob > -0.7), "bowel")
    put(out, cavity & (blob > 2.25), "air_cavity")
    liver = ((place.right - 75.0) / 66.0) ** 2 + ((front - body - 35.0) / 62.0) ** 2
    liver = liver + ((place.level - 18.6) / 2.4) ** 2
    put(out, cavity & (liver < 1), "organ")
    spleen = ((place.right + 92.0) / 36.0) ** 2 + ((front - 5.0) / 38.0) ** 2 + ((place.level - 18.4) / 1.5) ** 2
    put(out, cavity & (spleen < 1), "organ")
    kidney = ((side - 56.0) / 25.0) ** 2 + ((front - 8.0) / 21.0) ** 2 + ((place.level - 20.5) / 1.45) ** 2
    put(out, kidney < 1.35, "fat")
    put(out, kidney < 1.0, "organ")
    put(out, kidney < 0.18, "fat")
    slim = place.follow((19.5, 20.2, 23.4, 24.3), (0.1, 1.0, 1.0, 0.1))
    quadratus = place.column(np.sign(place.right) * 56.0, -12.0, 17.0 * slim, 9.0 * slim)
    put(out, place.between(19.5, 24.3) & quadratus, "muscle")
    psoas_x = place.follow((19.0, 21, 24, 26, 28), (24.0, 31.0, 40.0, 52.0, 62.0)) * np.sign(place.right)
    psoas = place.follow((19.0, 20, 22, 24, 26), (2.0, 8.0, 15.0, 20.0, 19.0))
    put(out, place.between(19.2, 28.0) & place.column(psoas_x, 0.55 * body, psoas, 1.15 * psoas), "muscle")
    put(out, place.between(25.3, 31.0) & (front > 2.0) & place.column(0.0, body + 2.0, 46.0, 22.0), "fat")
    put(out, place.between(25.8, 31.0) & place.column(4.0, body + 17.0, 17.0, 11.0), "bowel")
    bladder = (side / 42.0) ** 2 + ((front - body - 75.0) / 32.0) ** 2 + ((place.level - 28.0) / 1.8) ** 2
    put(out, bladder < 1.0, "organ")
    iliac = np.abs(side - place.follow((24, 25, 27, 29), (95.0, 74.0, 62.0, 60.0)) - 0.45 * front) - 6.0
    ilium = place.between(24.2, 29.0) & (front > -45.0) & (front < 30.0)
    put(out, ilium & (iliac < 0), "cortical")
    put(out, ilium & (iliac < -1.2), "marrow")


def paint_vessels(place: Place, out: Tissue) -> None:
    """Aorta, vena cava, iliac vessels, carotid, jugular and vertebral vessels."""
    body = place.body
    x = place.follow((10.5, 13, 17, 19, 22, 23.5), (-17.0, -18.0, -12.0, -5.0, -3.0, -2.0))
    radius = place.follow((10.5, 13, 19, 23.5), (12.5, 12.0, 11.0, 9.0))
    ahead = place.follow((10.5, 13, 17, 19, 23.5), (-3.0, -3.0, 4.0, 10.5, 9.5))
    put(out, place.between(10.6, 23.4) & place.column(x, body + ahead, radius, radius), "blood_flow")
    put(out, place.between(17.0, 23.8) & place.column(17.0, body + 7.0, 11.0, 8.5), "vein")
    spread = place.follow((23.2, 26, 28), (7.0, 32.0, 50.0))
    drop = place.follow((23.2, 25, 28), (8.0, 14.0, 22.0))
    iliac = np.sign(place.right) * spread
    put(out, place.between(23.4, 28.0) & place.column(iliac, body + drop, 5.5, 5.5), "blood_flow")
    put(out, place.between(23.8, 28.0) & place.column(iliac * 1.12, body + drop - 9.0, 6.5, 6.0), "vein")
    neck = place.between(-0.5, 8.6)
    sign = np.sign(place.right)
    put(out, neck & place.column(sign * 25.0, body + 7.0, 3.4, 3.4), "blood_flow")
    put(out, neck & place.column(sign * 33.0, body + 5.0, 6.0, 4.8), "vein")
    put(out, place.between(1.2, 6.6) & place.column(sign * 16.5, 12.0, 2.0, 2.0), "blood_flow")


def paint_head(spine: Spine, place: Place, out: Tissue) -> None:
    """Posterior fossa with brainstem and cerebellum, its bone, clivus, the nasal part of the throat."""
    foramen = spine.sac.points[0]
    up = place.z - np.float32(foramen[2])
    side, front = np.abs(place.right), place.front
    above = up > 0
    put(out, above & (front < -12.0) & (up < 14.0) & (side < 45.0), "muscle")
    fossa = (place.right / 56.0) ** 2 + ((front + 20.0) / 42.0) ** 2 + ((up - 34.0) / 33.0) ** 2
    put(out, fossa < 1.36, "cortical")
    put(out, fossa < 1.25, "marrow")
    put(out, fossa < 1.12, "cortical")
    clivus = np.abs(front - 19.0 - 0.38 * up) - np.minimum(4.0 + 0.07 * up, 8.0)
    basal = (up > 3.0) & (side < 13.0)
    put(out, basal & (clivus < 0), "cortical")
    put(out, basal & (clivus < -1.2), "marrow")
    put(out, fossa < 1.02, "csf")
    cerebellum = (place.right / 50.0) ** 2 + ((front + 28.0) / 28.0) ** 2 + ((up - 34.0) / 25.0) ** 2
    put(out, cerebellum < 1.0, "brain")
    put(out, (cerebellum < 0.95) & (np.sin(1.1 * (up + 0.8 * front)) > 0.93), "csf")
    tonsil = ((side - 7.0) / 6.0) ** 2 + ((front + 13.0) / 6.0) ** 2 + ((up - 9.0) / 8.0) ** 2
    put(out, above & (tonsil < 1), "brain")
    half = np.interp(up, (-1, 0, 8, 18, 24, 40, 46), (7.0, 7.0, 8.0, 9.5, 15.0, 17.0, 12.0)).astype(np.float32)
    deep = np.interp(up, (-1, 0, 8, 18, 24, 40, 46), (6.0, 6.0, 7.0, 7.5, 12.0, 12.5, 9.0)).astype(np.float32)
    ahead = np.interp(up, (0, 18, 24, 40), (0.0, 1.5, 5.0, 8.0)).astype(np.float32)
    put(out, above & place.column(0.0, ahead, half + 3.0, deep + 3.0) & (up < 50.0), "csf")
    put(out, above & place.column(0.0, ahead, half, deep) & (up < 50.0), "brain")
    nasal = above & place.column(0.0, 46.0, 12.0, 9.0) & (up < 30.0)
    put(out, nasal, "air_cavity")
