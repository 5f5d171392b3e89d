"""A SPIDER folder made from scans whose truth is known, with the quirks of real ones by name."""

from __future__ import annotations

import csv
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np

from nnunet_spine_ext.core.io import write_volume
from nnunet_spine_ext.core.labels import MAPPINGS
from nnunet_spine_ext.core.spider import instances_to_spider, is_partly_visible
from nnunet_spine_ext.core.volume import Volume

# What a quirk changes; those of a single series change the last one of the folder.
QUIRKS = (
    "top_down",  # every mask counts its levels from above
    "partly_visible",  # the highest vertebra of every mask is 100 + its number
    "header_within_tolerance",  # the last mask lies 0.3 mm off
    "wrong_header",  # the last mask lies 40 mm off
    "lost_direction",  # the last mask has the identity as its direction
    "turned_mask",  # the last mask is stored in another orientation
    "lower_case_space",  # masks of SPACE series are called t2_space
    "nested",  # archives were unpacked into folders of their own
    "nifti",  # .nii.gz instead of .mha
    "float_masks",
    "eight_bits",
    "no_tables",
    "semicolons",  # tables as a European spreadsheet writes them
    "stranger_rows",  # tables with patients that are not there
    "subregions",  # a folder of SPINEPS masks beside the data
    "swapped_cord_canal",  # the same, with the codes of cord and canal exchanged
)
OVERVIEW = (
    "new_file_name", "subset", "num_vertebrae", "num_discs", "sex", "birth_date", "Manufacturer",
    "ManufacturerModelName", "MagneticFieldStrength", "RepetitionTime", "EchoTime", "DeviceSerialNumber",
)  # fmt: skip
GRADINGS = (
    "Patient", "IVD label", "Modic", "UP endplate", "LOW endplate", "Spondylolisthesis", "Disc herniation",
    "Disc narrowing", "Disc bulging", "Pfirrman grade",
)  # fmt: skip


@dataclass(frozen=True)
class Series:
    """One series with its truth: image, nnunet14 ids, ids of the scheme ``instances``, all on one grid."""

    patient: str
    series: str
    image: Volume
    semantic: Volume
    instances: Volume
    subset: str = "training"

    @property
    def name(self) -> str:
        return f"{self.patient}_{self.series}"

    def mask(self) -> Volume:
        """Return the SPIDER mask (int16): whole vertebrae, discs, the canal with the cord; no endplates, no sacrum."""
        array = self.instances.array
        table = instances_to_spider([int(k) for k in np.unique(array) if k])
        lookup = np.zeros(int(array.max()) + 1, dtype=np.int16)
        lookup[list(table)] = list(table.values())
        mask = lookup[array]
        mask[np.isin(self.semantic.array, (11, 12))] = 100
        return self.instances.with_array(mask)


def write_spider(folder: Path, series: Sequence[Series], quirks: Collection[str] = ()) -> Path:
    """Write images, masks and tables (and perhaps ``subregions``) into a folder and return it."""
    unknown = set(quirks) - set(QUIRKS)
    if unknown:
        msg = f"unknown quirks {sorted(unknown)}"
        raise ValueError(msg)
    suffix = ".nii.gz" if "nifti" in quirks else ".mha"
    inner = "/SPIDER_unpacked" if "nested" in quirks else ""
    for one in series:
        last = one is series[-1]
        name = one.name.replace("t2_SPACE", "t2_space") if "lower_case_space" in quirks else one.name
        write_volume(one.image, Path(f"{folder}{inner}/images/{one.name}{suffix}"))
        write_volume(_quirky(one.mask(), quirks, last=last), Path(f"{folder}{inner}/masks/{name}{suffix}"))
        if {"subregions", "swapped_cord_canal"} & set(quirks):
            write_volume(_subregions(one, quirks), folder / "subregions" / f"{one.name}_seg-spine_msk.nii.gz")
    if "no_tables" not in quirks:
        _write_tables(folder, series, quirks)
    return folder


def toy_patient(patient: str, *series: str, vertebrae: int = 5, subset: str = "training") -> list[Series]:
    """Return series of one patient made of boxes: quick, with every class of nnunet14 that a lumbar spine has."""
    image, semantic, instances = _toy(vertebrae)
    rng = np.random.default_rng(sum(map(ord, patient)))
    return [
        Series(patient, name, image.with_array(image.array + rng.normal(0, 5, image.shape).astype(np.float32)),
               semantic, instances, subset)
        for name in series or ("t2",)
    ]  # fmt: skip


@cache
def _toy(vertebrae: int) -> tuple[Volume, Volume, Volume]:
    """Return image, semantic and instances of a stack of boxes, LPS as most files of SPIDER, 4 x 2 x 2 mm."""
    affine = np.diag([-4.0, -2.0, 2.0, 1.0])
    affine[:3, 3] = 16, 40, -60
    shape = (9, 44, 24 + 20 * vertebrae + 8)
    semantic, instances = np.zeros(shape, np.uint8), np.zeros(shape, np.uint16)

    def box(where: tuple[slice, slice, slice], tissue: int, instance: int) -> None:
        semantic[where], instances[where] = tissue, instance

    wide, body = slice(2, 7), slice(8, 22)
    box((wide, body, slice(2, 20)), 1, 26)
    for n in range(vertebrae):
        number, bottom = (24 - n if n < 5 else 19 - (n - 5)), 20 + 20 * n
        box((wide, body, slice(bottom, bottom + 4)), 14, 100 + number)
        for plate in (bottom + 4, bottom + 19):
            box((wide, body, slice(plate, plate + 1)), 13, 200 + number)
        box((wide, body, slice(bottom + 5, bottom + 19)), 10, number)
        box((wide, slice(30, 34), slice(bottom + 3, bottom + 15)), 2, number)
        box((slice(4, 5), slice(34, 40), slice(bottom, bottom + 10)), 3, number)
        for sides, part in ((slice(1, 2), 4), (slice(7, 8), 5)):
            box((sides, slice(24, 30), slice(bottom + 8, bottom + 12)), part, number)
    box((slice(2, 7), slice(22, 30), slice(10, shape[2])), 12, 0)
    box((slice(3, 6), slice(24, 28), slice(60, shape[2])), 11, 0)
    image = (20.0 + 13.0 * semantic).astype(np.float32)
    return Volume(image, affine), Volume(semantic, affine), Volume(instances, affine)


def toys(count: int = 4, quirks: Collection[str] = ()) -> list[Series]:
    """Return series of several toy patients, the first with all three of SPIDER's."""
    first = toy_patient("1", "t1", "t2", "t2_SPACE")
    others = [one for k in range(2, count + 1) for one in toy_patient(str(k), "t2", vertebrae=5 + k % 2)]
    subset = "validation" if "no_tables" not in quirks else ""
    return [*first, *others[:-1], replace(others[-1], subset=subset)]


def _quirky(mask: Volume, quirks: Collection[str], *, last: bool) -> Volume:
    array = mask.array
    if "partly_visible" in quirks:
        highest = int(array[array < 100].max())
        array = np.where(array == highest, 100 + highest, array).astype(np.int16)
    if "top_down" in quirks:
        array = _turned(array)
    for quirk, dtype in (("float_masks", np.float32), ("eight_bits", np.uint8)):
        array = array.astype(dtype) if quirk in quirks else array
    affine = mask.affine.copy()
    if last and "header_within_tolerance" in quirks:
        affine[1, 3] += 0.3
    if last and "wrong_header" in quirks:
        affine[1, 3] += 40
    if last and "lost_direction" in quirks:
        affine[:3, :3] = np.diag(mask.spacing)
    changed = Volume(array, affine)
    return changed.to("PIR") if last and "turned_mask" in quirks else changed


def _turned(array: np.ndarray) -> np.ndarray:
    """Count the levels of a mask from above."""
    ids = [int(k) for k in np.unique(array) if k and k != 100]
    base = {k: 200 if k > 200 else 100 if is_partly_visible(k) else 0 for k in ids}
    highest = max(k - base[k] for k in ids)
    lookup = np.arange(256, dtype=array.dtype)
    for k in ids:
        lookup[k] = base[k] + highest + 1 - (k - base[k])
    return lookup[array]


def _subregions(one: Series, quirks: Collection[str]) -> Volume:
    table = MAPPINGS["nnunet14", "spineps"].table
    lookup = np.zeros(256, dtype=np.uint8)
    lookup[list(table)] = list(table.values())
    if "swapped_cord_canal" in quirks:
        lookup[[11, 12]] = lookup[[12, 11]]
    return one.semantic.with_array(lookup[one.semantic.array])


def _write_tables(folder: Path, series: Iterable[Series], quirks: Collection[str]) -> None:
    overview = [_overview_row(one) for one in series]
    patients = list(dict.fromkeys(one.patient for one in series))
    gradings: list[tuple[object, ...]] = [
        (p, disc, 0, 1, 0, 0, 0, 1, 0, 1 + disc % 5) for p in patients for disc in range(1, 6)
    ]
    if "stranger_rows" in quirks:
        overview.append(("998_t2", *overview[0][1:]))
        gradings.append((999, *gradings[0][1:]))
    for name, titles, rows in (("overview", OVERVIEW, overview), ("radiological_gradings", GRADINGS, gradings)):
        european = "semicolons" in quirks
        with (folder / f"{name}.csv").open("w", newline="", encoding="utf-8-sig" if european else "utf-8") as stream:
            writer = csv.writer(stream, delimiter=";" if european else ",")
            writer.writerow([title.upper() for title in titles] if european else titles)
            cells = [[str(cell).replace(".", ",") if european and isinstance(cell, float) else cell for cell in row]
                     for row in rows]  # fmt: skip
            writer.writerows(cells)


def _overview_row(one: Series) -> tuple[object, ...]:
    mask = one.mask().array
    vertebrae, discs = (len(set(np.unique(mask[where])) - {0}) for where in (mask < 100, mask > 200))
    facts = ("F ", "1961-02-03", "SIEMENS", "Avanto", 1.5, 3200.0, 101.5, "12345")
    return (one.name, one.subset, vertebrae, discs, *facts)
