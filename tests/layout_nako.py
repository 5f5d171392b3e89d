"""A NAKO-like tree made from scans whose truth is known, with the quirks of real ones by name."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from scipy.ndimage import affine_transform

from nnunet_spine_ext.core.io import write_volume
from nnunet_spine_ext.core.labels import mapping
from nnunet_spine_ext.core.volume import Array, Volume
from nnunet_spine_ext.phantom.protocols import PROTOCOLS
from nnunet_spine_ext.phantom.scan import Scan, ScanRequest, scan_subject

CHUNKS = ("HWS", "BWS", "LWS")
PARTS = ((0.0, 0.42), (0.32, 0.72), (0.62, 1.0))
GAINS = (1.6, 1.0, 0.7)
ANGLES = ((2.0, 1.0, 1.5), (0.0, 0.0, 0.0), (-1.5, 2.0, -1.0))
SHIFTS = ((0.0, 0.3, 0.4), (0.0, 0.0, 0.0), (1.0, 2.3, -0.37))
STRAIGHT = ((0.0, 0.0, 0.0),) * 3

# What a quirk changes; those of a single subject change the last one.
QUIRKS = (
    "prefix",  # folders between rawdata and the subjects
    "sessions",  # ses-30 in folders and names
    "session_folders",  # ses-30 in folders only
    "entity_order",  # entities in another order
    "no_sidecars",
    "subreg",  # seg-subreg instead of seg-spine
    "beside",  # masks beside the images instead of in derivatives
    "duplicate_sequ",  # the neck was scanned as series 9 and again as series 10
    "composed",  # the scanner's composed series beside the chunks, told by its SeriesDescription
    "composed_only",  # the last subject has nothing but that, told by its ImageType
    "stitched_tree",  # rawdata_stitched with an image joined of the chunks, and its masks
    "swapped_codes",  # cord 61, canal 60
    "gains",  # the coil of every chunk has another gain
    "turned",  # chunks are turned and shifted against each other
    "counted",  # vertebrae of every chunk are numbered from 2
    "missing_chunk",  # the last subject has no LWS
    "missing_middle",  # the last subject has no BWS
    "pointer",  # the last subject's HWS is in an annex that was not fetched
    "four_d",  # the last subject's LWS holds three volumes
    "no_masks",  # the last subject has none
    "no_neck_mask",  # the last subject has none for HWS
    "no_instances",
    "stray_mask",  # a mask of a subject that is not there
)


@cache
def phantom() -> Scan:
    """Return a sagittal scan of a whole spine, 2 x 2 x 3.3 mm, stored as PIR."""
    protocol = replace(PROTOCOLS["t2w_sagittal"], spacing=(2.0, 2.0, 3.3))
    request = ScanRequest((protocol,), seed=3, pathologies=False, anomalies="none", supersample=1)
    return scan_subject(request, 0)[0]


def cut(
    volume: Volume,
    part: tuple[float, float],
    *,
    angles: tuple[float, float, float] = (0.0, 0.0, 0.0),
    shift: tuple[float, float, float] = (0.0, 0.0, 0.0),
    gain: float = 1.0,
    order: int = 3,
) -> Volume:
    """Scan a part of a PIR volume again: turned about its middle (degrees), shifted (mm), with another gain."""
    count = volume.shape[1]
    chunk = volume.crop((slice(None), slice(int(part[0] * count), int(part[1] * count)), slice(None)))
    array = chunk.array
    affine = chunk.affine
    if any(angles) or any(shift):
        middle = chunk.world((np.asarray(chunk.shape) - 1) / 2)
        turn = rotation(angles)
        affine = affine.copy()
        affine[:3, :3] = turn @ affine[:3, :3]
        affine[:3, 3] = middle + turn @ (chunk.affine[:3, 3] - middle) + shift
        step = np.linalg.inv(volume.affine) @ affine
        source = volume.array.astype(np.float32) if order else volume.array
        array = affine_transform(
            source, step[:3, :3], step[:3, 3], output_shape=chunk.shape, order=order, mode="nearest"
        )
    if order:
        array = np.rint(np.clip(array * gain, 0, None)).astype(np.int16)
    return Volume(array, affine)


def rotation(angles: tuple[float, float, float]) -> Array:
    """Return the matrix that turns about x, y and z, degrees."""
    result = np.eye(3)
    for axis, angle in enumerate(np.deg2rad(angles)):
        turn = np.eye(3)
        i, j = (k for k in range(3) if k != axis)
        turn[i, i] = turn[j, j] = np.cos(angle)
        turn[i, j], turn[j, i] = -np.sin(angle), np.sin(angle)
        result = turn @ result
    return result


@dataclass(frozen=True)
class Person:
    """One subject: name without ``sub-``, image, nnunet14 ids, ids of the scheme ``instances``, on one grid."""

    name: str
    image: Volume
    semantic: Volume
    instances: Volume


def people(*names: str) -> list[Person]:
    """Return the phantom under several names, with noise of their own."""
    scan = phantom()
    found = []
    for name in names:
        noise = np.random.default_rng(sum(map(ord, name))).integers(0, 9, scan.image.shape)
        image = scan.image.with_array((scan.image.array + noise).astype(np.int16))
        found.append(Person(name, image, scan.semantic, scan.instances))
    return found


def write_nako(folder: Path, persons: Sequence[Person], quirks: Collection[str] = ()) -> Path:
    """Write images, sidecars and masks into a folder and return it."""
    unknown = set(quirks) - set(QUIRKS)
    if unknown:
        msg = f"unknown quirks {sorted(unknown)}"
        raise ValueError(msg)
    for number, person in enumerate(persons):
        _Writer(folder, person, frozenset(quirks), last=person is persons[-1]).write(10 * (number + 1))
    if "stray_mask" in quirks:
        stray = folder / "derivatives_seg/sub-999/sub-999_sequ-3_acq-sag_chunk-BWS_seg-spine_msk.nii.gz"
        write_volume(Volume(np.ones((4, 4, 4), np.uint8), np.eye(4)), stray)
    return folder


@dataclass(frozen=True)
class _Writer:
    folder: Path
    person: Person
    quirks: frozenset[str]
    last: bool

    def write(self, base: int) -> None:
        if "composed_only" in self.quirks and self.last:
            self._composed({"ImageType": ["DERIVED", "PRIMARY", "M", "COMP_SP"]})
            return
        for position, chunk in enumerate(CHUNKS):
            absent = {"LWS": "missing_chunk", "BWS": "missing_middle"}.get(chunk)
            if not (self.last and absent in self.quirks):
                self._chunk(position, base + position)
        if "composed" in self.quirks:
            self._composed({"SeriesDescription": "Sag T2 Spine"})
        if "stitched_tree" in self.quirks:
            entities = {"sequ": "stitched", "acq": "sag"}
            self._image("rawdata_stitched", entities, self.person.image)
            self._masks("derivatives_stitched", entities, self.person.semantic, self.person.instances)

    def _chunk(self, position: int, sequence: int) -> None:
        turned = "turned" in self.quirks
        pose: dict[str, Any] = {
            "angles": ANGLES[position] if turned else (0.0, 0.0, 0.0),
            "shift": SHIFTS[position] if turned else (0.0, 0.0, 0.0),
        }
        part, chunk = PARTS[position], CHUNKS[position]
        gain = GAINS[position] if "gains" in self.quirks else 1.0
        image = cut(self.person.image, part, **pose, gain=gain)
        semantic = cut(self.person.semantic, part, **pose, order=0)
        instances = cut(self.person.instances, part, **pose, order=0)
        if "duplicate_sequ" in self.quirks and chunk == "HWS":
            sequence = 10
            moved = image.with_array(np.roll(image.array, 3, axis=0))
            self._image("rawdata", {"sequ": "9", "acq": "sag", "chunk": chunk}, moved)
        entities = {"sequ": str(sequence), "acq": "sag", "chunk": chunk}
        path = self._image("rawdata", entities, image)
        self._spoil(path, chunk, image)
        if not (self.last and ("no_masks" in self.quirks or (chunk == "HWS" and "no_neck_mask" in self.quirks))):
            self._masks("derivatives_seg", entities, semantic, instances)

    def _spoil(self, path: Path, chunk: str, image: Volume) -> None:
        if self.last and chunk == "HWS" and "pointer" in self.quirks:
            path.unlink()
            path.symlink_to(f"../../.git/annex/objects/Xy/9z/SHA256E-s12--abc.nii.gz/{path.name}")
        if self.last and chunk == "LWS" and "four_d" in self.quirks:
            nib.save(nib.Nifti1Image(np.stack([image.array] * 3, axis=-1), image.affine), path)

    def _composed(self, facts: dict[str, Any]) -> None:
        path = self._image("rawdata", {"sequ": "40", "acq": "sag"}, self.person.image)
        _sidecar(path).write_text(json.dumps(_FACTS | facts))

    def _image(self, tree: str, entities: dict[str, str], image: Volume) -> Path:
        path = self._place(tree) / f"{self._stem(entities, 'T2w')}.nii.gz"
        write_volume(image, path)
        if "no_sidecars" not in self.quirks:
            chunk = entities.get("chunk", "")
            _sidecar(path).write_text(json.dumps(_FACTS | {"SeriesDescription": f"T2_TSE_SAG_{chunk}"}))
        return path

    def _masks(self, tree: str, entities: dict[str, str], semantic: Volume, instances: Volume) -> None:
        folder = self._place("rawdata" if "beside" in self.quirks else tree)
        table = dict(mapping("nnunet14", "spineps").table)
        if "swapped_codes" in self.quirks:
            table[11], table[12] = 61, 60
        lookup = np.array([0, *(table[n] for n in range(1, 15))], dtype=np.uint8)
        kind = "subreg" if "subreg" in self.quirks else "spine"
        stem = self._stem({**entities, "mod": "T2w", "seg": kind}, "msk")
        write_volume(semantic.with_array(lookup[semantic.array]), folder / f"{stem}.nii.gz")
        if "no_instances" not in self.quirks:
            numbers = counted(instances) if "counted" in self.quirks else instances
            stem = self._stem({**entities, "mod": "T2w", "seg": "vert"}, "msk")
            write_volume(numbers, folder / f"{stem}.nii.gz")

    def _place(self, tree: str) -> Path:
        inner = self.person.name[:3] if "prefix" in self.quirks else ""
        session = "ses-30/anat" if {"sessions", "session_folders"} & self.quirks else "T2w"
        folder = self.folder / tree / inner / f"sub-{self.person.name}" / session
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _stem(self, entities: dict[str, str], suffix: str) -> str:
        values = {"sub": self.person.name} | ({"ses": "30"} if "sessions" in self.quirks else {}) | entities
        words = [f"{key}-{value}" for key, value in values.items()]
        if "entity_order" in self.quirks:
            # The subject need not come first.
            words = sorted(words, key=lambda word: word[::-1])
        return "_".join([*words, suffix])


def counted(instances: Volume) -> Volume:
    """Number the vertebrae from 2 downwards, as programs do that do not know the level; the sacrum keeps its id."""
    ids = sorted({int(k) % 100 for k in np.unique(instances.array)} & set(range(1, 26)))
    new = {number: 2 + k for k, number in enumerate(ids)}
    lookup = np.arange(int(instances.array.max()) + 1)
    for offset in (0, 100, 200):
        for number, value in new.items():
            if offset + number < len(lookup):
                lookup[offset + number] = offset + value
    return instances.with_array(lookup[instances.array].astype(np.uint16))


_FACTS = {
    "Manufacturer": "SIEMENS", "ManufacturersModelName": "Skyra", "MagneticFieldStrength": 3,
    "RepetitionTime": 3.14, "EchoTime": 0.101, "ImageType": ["ORIGINAL", "PRIMARY", "M", "NORM"],
}  # fmt: skip


def _sidecar(image: Path) -> Path:
    return image.with_name(image.name.replace(".nii.gz", ".json"))
