"""A tree in the layout of the Spine-Generic data sets, from any scans, with every quirk that real ones have."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_spine_ext.core.io import write_volume
from nnunet_spine_ext.core.volume import Volume

# What `quirks` may name: the last ones concern one file each, of the first or the second subject.
QUIRKS = (
    "old_names",  # _seg-manual and acq-MTon_MTS instead of _label-SC_seg and flip-1_mt-on_MTS
    "no_participants",
    "derived_images",  # images, soft masks, levels, points and a template mask in derivatives; originals in sourcedata
    "annex_link",  # the first image is a link without content
    "annex_pointer",  # the second subject's first mask is an unlocked pointer file
    "missing_image",  # the first image is only in sourcedata
    "no_sidecar",  # the first image has no JSON file
    "series",  # the first subject has a 4-D diffusion series
    "model_mask",  # the first mask was made by a model
    "broken_model_sidecar",  # the same, and a quotation mark is missing, as in 203 real files
    "corrected_mask",  # made by a program, then corrected
    "silent_mask",  # the first mask has no JSON file
    "fewer_slices",  # the first mask lacks a slice at each end
    "soft_mask",  # the first mask holds values up to 1.06
)
_CORD, _CANAL = 11, 12
_OLD = {
    "flip-1_mt-on_MTS": "acq-MTon_MTS",
    "flip-1_mt-off_MTS": "acq-MToff_MTS",
    "flip-2_mt-off_MTS": "acq-T1w_MTS",
}
_ANNEX = ".git/annex/objects/8X/9f/MD5E-s4--0a.nii.gz/MD5E-s4--0a.nii.gz"
DEEPSEG = "spinalcordtoolbox: sct_deepseg -i {image}.nii.gz -task seg_sc_contrast_agnostic -o {mask}.nii.gz"


@dataclass(frozen=True)
class LayoutScan:
    """One image with its hard masks (0 and 1) on one grid; `contrast` as in file names, `T2star` for example."""

    subject: str
    contrast: str
    image: Volume
    cord: Volume
    canal: Volume | None = None

    @property
    def stem(self) -> str:
        """Name of the image without suffix."""
        return f"sub-{self.subject}_{self.contrast}"

    @property
    def place(self) -> Path:
        """Folder of the image below the root."""
        return Path(f"sub-{self.subject}", "dwi" if self.contrast.endswith("dwi") else "anat")


def from_phantom(scan: Any, subject: str) -> LayoutScan:
    """Return a phantom scan (`nnunet_spine_ext.phantom.scan.Scan`) under the name of a real-looking subject."""
    semantic = scan.semantic.array
    return LayoutScan(
        subject,
        scan.protocol.contrast.replace("T2starw", "T2star"),
        scan.image,
        scan.semantic.with_array((semantic == _CORD).astype(np.uint8)),
        scan.semantic.with_array(np.isin(semantic, (_CORD, _CANAL)).astype(np.uint8)),
    )


def write_spine_generic(root: Path, scans: Sequence[LayoutScan], *, quirks: Iterable[str] = ()) -> Path:
    """Write a tree and return its root; scans of one subject follow each other."""
    chosen = set(quirks)
    assert chosen <= set(QUIRKS), chosen - set(QUIRKS)
    subjects = list(dict.fromkeys(scan.subject for scan in scans))
    if "no_participants" not in chosen:
        _write_participants(root, subjects)
    if "old_names" in chosen:
        scans = [_renamed(scan) for scan in scans]
    for k, scan in enumerate(scans):
        first, second = (
            k == 0,
            len(subjects) > 1 and scan.subject == subjects[1] and scans[k - 1].subject == subjects[0],
        )
        _write_image(root, scan, chosen if first else set())
        _write_masks(
            root, scan, chosen if first else chosen & {"old_names"}, unlocked=second and "annex_pointer" in chosen
        )
        if "derived_images" in chosen:
            _write_derived(root, scan)
    if "series" in chosen:
        _write_series(root, scans[0])
    return root


def mask_path(root: Path, scan: LayoutScan, ending: str = "label-SC_seg", folder: str = "labels") -> Path:
    """Return where a mask of a scan lies."""
    return root / "derivatives" / folder / scan.place / f"{scan.stem}_{ending}.nii.gz"


def image_path(root: Path, scan: LayoutScan) -> Path:
    """Return where the image of a scan lies."""
    return root / scan.place / f"{scan.stem}.nii.gz"


def sidecar_path(path: Path) -> Path:
    """Return the JSON file beside an image or a mask."""
    return path.with_name(path.name.replace(".nii.gz", ".json"))


def _renamed(scan: LayoutScan) -> LayoutScan:
    return LayoutScan(scan.subject, _OLD.get(scan.contrast, scan.contrast), scan.image, scan.cord, scan.canal)


def _write_participants(root: Path, subjects: Sequence[str]) -> None:
    columns = "participant_id sex age institution_id institution manufacturer manufacturers_model_name pathology"
    rows = ["\t".join(columns.split())]
    for k, subject in enumerate(subjects):
        site = subject.rstrip("0123456789")
        vendor, model = (("Siemens", "Prisma-fit"), ("Philips", "Achieva"), ("GE", "-"))[k % 3]
        pathology = ("HC", "MildCompression", "n/a")[k % 3]
        rows.append("\t".join((f"sub-{subject}", "F", "33", site, f"Hospital of {site}", vendor, model, pathology)))
    _write(root / "participants.tsv", "\r\n".join(rows) + "\r\n")


def _write_image(root: Path, scan: LayoutScan, quirks: set[str]) -> None:
    path = image_path(root, scan)
    if "annex_link" in quirks:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(Path("../..") / _ANNEX)
    elif "missing_image" in quirks:
        _volume(scan.image, root / "sourcedata" / scan.place / path.name)
    else:
        _volume(scan.image, path)
    if "no_sidecar" not in quirks:
        facts = {"Manufacturer": "SIEMENS", "ManufacturersModelName": "Prisma_fit", "MagneticFieldStrength": 3}
        times = {"RepetitionTime": 1.5, "EchoTime": 0.12, "OperatorsName": "Somebody"}
        _write(sidecar_path(path), json.dumps(facts | times))


def _write_masks(root: Path, scan: LayoutScan, quirks: set[str], *, unlocked: bool) -> None:
    old = "old_names" in quirks
    path = mask_path(root, scan, "seg-manual" if old else "label-SC_seg")
    cord = scan.cord
    if "fewer_slices" in quirks:
        cord = cord.crop((slice(None), slice(None), slice(1, cord.shape[2] - 1)))
    if "soft_mask" in quirks:
        cord = cord.with_array(cord.array.astype(np.float32) * np.float32(1.06))
    if unlocked:
        _write(path, f"/annex/objects/{Path(_ANNEX).name}\n")
    else:
        _volume(cord, path)
    if "silent_mask" not in quirks:
        _write(sidecar_path(path), _made_by(scan.stem, path.name.removesuffix(".nii.gz"), quirks))
    if scan.canal is not None:
        canal = mask_path(root, scan, "label-canal_seg")
        _volume(scan.canal, canal)
        _write(sidecar_path(canal), json.dumps({"Author": "A. Person", "Date": "2021-07-25"}))


def _made_by(image: str, mask: str, quirks: set[str]) -> str:
    manual = {"Name": "Manual", "Author": "A. Person", "Date": "2025-08-11 11:48:08"}
    model = {"Name": DEEPSEG.format(image=image, mask=mask), "Version": "git", "ModelURL": "https://example.org/m.zip"}
    if "broken_model_sidecar" in quirks:
        return json.dumps({"GeneratedBy": [model]}).replace('"ModelURL"', 'ModelURL"')
    if "model_mask" in quirks:
        return json.dumps({"GeneratedBy": [model], "SpatialReference": "orig"})
    if "corrected_mask" in quirks:
        return json.dumps({"GeneratedBy": [{"Name": "sct_deepseg_sc", "Version": "5.0"}, manual]})
    if "old_names" in quirks:
        return json.dumps({"Author": "A. Person", "Date": "2021-07-25 13:39:39"})
    return json.dumps({"GeneratedBy": [manual]})


def _write_derived(root: Path, scan: LayoutScan) -> None:
    """Write what lies in real trees and is no input: none of it may become a case or a class."""
    soft = scan.cord.with_array(scan.cord.array.astype(np.float32) * np.float32(0.5))
    _volume(soft, mask_path(root, scan, "label-SC_softseg", "labels_softseg"))
    _volume(scan.cord, mask_path(root, scan, "desc-softseg_label-SC_seg", "labels_softseg_bin"))
    for ending in ("label-spine_dseg", "label-discs_dlabel", "PAM50_seg", "label-rootlets_dseg"):
        _volume(scan.cord, mask_path(root, scan, ending))
    _volume(scan.image, root / "derivatives" / "processed" / scan.place / f"{scan.stem}.nii.gz")
    _volume(scan.image, root / "derivatives" / "labels" / scan.place / f"{scan.stem}_desc-preproc.nii.gz")
    _volume(scan.image, root / "sourcedata" / scan.place / f"{scan.stem}.nii.gz")


def _write_series(root: Path, scan: LayoutScan) -> None:
    import nibabel as nib

    path = root / f"sub-{scan.subject}" / "dwi" / f"sub-{scan.subject}_dwi.nii.gz"
    path.parent.mkdir(parents=True, exist_ok=True)
    array = np.stack([scan.image.array.astype(np.float32)] * 3, axis=-1)
    nib.save(nib.Nifti1Image(array, scan.image.affine), path)
    _write(path.with_name(path.name.replace(".nii.gz", ".bval")), "0 800 800\n")
    _write(path.with_name(path.name.replace(".nii.gz", ".bvec")), "0 1 0\n0 0 1\n0 0 0\n")


def _volume(volume: Volume, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_volume(volume, path)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8", newline="")
