"""Results under names of the BIDS-derivatives kind, as SPINEPS and TPTBox name them.

Entities stand in TPTBox' order, which is not that of BIDS (`seg` before `run`): names are then the same, to the letter,
as those that SPINEPS gives its own results.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from nnunet_spine_ext import __version__
from nnunet_spine_ext.core.entities import parse_entities
from nnunet_spine_ext.core.errors import UsageError
from nnunet_spine_ext.core.io import write_json

FOLDER = "derivatives_seg"
# Source: bids_constants.py of TPTBox 1.1.0.
_ORDER = (
    "sub", "ses", "sequ", "acq", "task", "chunk", "hemi", "sample", "ce", "trc", "stain", "rec", "proc", "mod",
    "recording", "res", "dir", "echo", "flip", "inv", "mt", "part", "space", "seg", "source", "ovl", "run", "label",
    "split", "den", "desc",
)  # fmt: skip
# Last words of names of masks: they say nothing about the image.
_MASK_WORDS = ("msk", "mask", "seg", "dseg", "probseg")
_BIDS_VERSION = "1.10.0"


@dataclass(frozen=True)
class BidsFiles:
    """Where the results of a case go.

    spine, vert: masks of classes (ids of SPINEPS) and of instances. centroids: a TPTBox point list. snapshot: PNG.
    """

    spine: Path
    vert: Path
    centroids: Path
    snapshot: Path

    def all(self) -> tuple[Path, ...]:
        """Return the four of them."""
        return self.spine, self.vert, self.centroids, self.snapshot


def bids_files(out: Path, case: str) -> BidsFiles:
    """Return the files of a case below ``<out>/derivatives_seg``.

    A case name with a subject (``sub-7_ses-1_acq-sag_T2w``, also ``sub-7_mod-T2w_seg-spine_msk``) keeps its entities;
    its suffix becomes ``mod-T2w``. Another name becomes the subject, without what is neither letter nor digit:
    ``scan 3`` gives ``sub-scan3_seg-spine_msk.nii.gz``.
    """
    values = _entities(case)
    folder = out / FOLDER / f"sub-{values['sub']}"
    folder = (folder / f"ses-{values['ses']}" if "ses" in values else folder) / "anat"

    def named(seg: str, ending: str) -> Path:
        own = values | {"seg": seg}
        keys = sorted(own, key=lambda key: _ORDER.index(key) if key in _ORDER else len(_ORDER))
        return folder / f"{'_'.join(f'{key}-{own[key]}' for key in keys)}_{ending}"

    return BidsFiles(
        spine=named("spine", "msk.nii.gz"),
        vert=named("vert", "msk.nii.gz"),
        centroids=named("spine", "ctd.json"),
        snapshot=named("spine", "snp.png"),
    )


def refuse_equal_names(cases: Iterable[str]) -> None:
    """Raise UsageError when two cases would have the same files."""
    owners: dict[Path, str] = {}
    for case in cases:
        file = bids_files(Path(), case).spine
        other = owners.setdefault(file, case)
        if other != case:
            raise UsageError(
                "E-OUT-BIDS",
                file="--bids",
                found=f"cases {other} and {case}, which would both be {file.name}",
                expected="names that differ in their entities (sub, ses, run, …) or their letters and digits",
                fix="rename one of them, choose another -o, or leave --bids out",
            )


def write_description(out: Path) -> None:
    """Write the dataset_description.json that BIDS asks of a folder of derivatives."""
    generator = {"Name": "nnunet_spine_ext", "Version": __version__}
    write_json(
        out / FOLDER / "dataset_description.json",
        {
            "Name": "Segmentations of the spine",
            "BIDSVersion": _BIDS_VERSION,
            "DatasetType": "derivative",
            "GeneratedBy": [generator],
        },
    )


def _entities(case: str) -> dict[str, str]:
    # With an extension of its own a dot inside the name is part of a value.
    parsed = parse_entities(f"{case}.nii.gz")
    if "sub" not in parsed.values:
        return {"sub": "".join(letter for letter in case if letter.isalnum()) or "case"}
    values = parsed.without("seg")
    if parsed.suffix and parsed.suffix.lower() not in _MASK_WORDS:
        values.setdefault("mod", parsed.suffix)
    return values
