"""Writing scans as a BIDS dataset with derivatives, wholly or not at all."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_spine_ext import __version__
from nnunet_spine_ext.core.errors import CaseError, UsageError
from nnunet_spine_ext.core.io import read_json, write_json, write_text, write_volume
from nnunet_spine_ext.core.labels import scheme
from nnunet_spine_ext.core.volume import Volume
from nnunet_spine_ext.phantom.protocols import Protocol
from nnunet_spine_ext.phantom.scan import Scan

BIDS_VERSION = "1.10.0"
_MAKER = "nnunet_spine_ext"
_COLUMNS = ("participant_id", "sex", "age", "anomaly", "pathologies")


@contextmanager
def bids_writer(
    root: str | Path, name: str, protocols: Sequence[Protocol], description: str, licence: str, *, overwrite: bool
) -> Iterator[BidsWriter]:
    """Yield a `BidsWriter`; ``root/name`` appears when the block ends without an exception.

    Raises UsageError if the folder exists (with `overwrite`: if nothing says that a phantom run made it), the name is
    unsafe or the root cannot be written.
    """
    root = Path(root)
    final = root / name
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", name):
        raise _usage(final, f"the name {name!r}", "letters, digits, '_' and '-'", "choose another name")
    if final.exists() and not overwrite:
        raise _usage(final, "a folder of this name", "a free name", "choose another --name, or --overwrite replaces it")
    if final.exists() and not _is_ours(final):
        raise _usage(final, "something that no phantom run made", "a phantom's folder", "choose another --name")
    try:
        root.mkdir(parents=True, exist_ok=True)
        hidden = Path(tempfile.mkdtemp(prefix=f".{name}.", dir=root))
        hidden.chmod(0o755)
    except OSError as error:
        raise _usage(root, f"cannot be written to ({error.strerror})", "a writable folder", "choose another") from error
    try:
        writer = BidsWriter(hidden, protocols)
        yield writer
        writer.finish(name, description, licence)
        if final.exists():
            shutil.rmtree(final)
        hidden.rename(final)
    finally:
        shutil.rmtree(hidden, ignore_errors=True)


def _is_ours(folder: Path) -> bool:
    """Whether a folder may be replaced: it is empty, or its description says that this package made it."""
    if not folder.is_dir():
        return False
    if not any(folder.iterdir()):
        return True
    try:
        makers = read_json(folder / "dataset_description.json")["GeneratedBy"]
        return any(maker["Name"] == _MAKER for maker in makers)
    except (CaseError, KeyError, TypeError):
        return False


class BidsWriter:
    """Writes scans into a folder that is not yet visible under its final name; made by `bids_writer`."""

    def __init__(self, folder: Path, protocols: Sequence[Protocol]) -> None:
        self._folder = folder
        self._participants: dict[str, dict[str, Any]] = {}
        self._folders = {row.folder for row in protocols}
        suffixes = [f"{row.entities}{row.suffix}" for row in protocols]
        # Two protocols of one suffix need the acquisition entity to have different names.
        self._twins = {suffix for suffix in suffixes if suffixes.count(suffix) > 1}

    def add(self, scan: Scan) -> str:
        """Write one scan with its truth; return its file name without suffix."""
        subject = f"sub-{scan.subject}"
        row = scan.protocol
        stem = f"{subject}_{self._acquisition(row)}{row.entities}{row.suffix}"
        image = self._folder / subject / row.folder / stem
        write_volume(scan.image, image.with_name(f"{stem}.nii.gz"))
        write_json(image.with_name(f"{stem}.json"), sidecar(scan))
        if row.suffix == "dwi":
            # The mean over directions has none itself.
            write_text(image.with_name(f"{stem}.bval"), f"{row.diffusion:g}\n")
            write_text(image.with_name(f"{stem}.bvec"), "0\n0\n0\n")
        truth = self._folder / "derivatives" / "labels" / subject / row.folder
        volumes: dict[str, Volume] = {
            "label-spine_dseg": scan.semantic,
            "label-instances_dseg": scan.instances,
            "label-SC_probseg": scan.cord.with_array(scan.cord.array.astype(np.float32)),
        }
        for suffix, volume in volumes.items():
            write_volume(volume, truth / f"{stem}_{suffix}.nii.gz")
        write_json(truth / f"{stem}_truth.json", scan.truth)
        self._participants[subject] = scan.info
        return stem

    def _acquisition(self, protocol: Protocol) -> str:
        """Return the entity that tells a protocol from others of the same suffix, and what its suffix does not say."""
        if f"{protocol.entities}{protocol.suffix}" in self._twins:
            return f"acq-{re.sub('[^a-z0-9]', '', protocol.name)}_"
        return f"acq-{protocol.contrast.lower()}_" if protocol.suffix == "T2w" != protocol.contrast else ""

    def finish(self, name: str, description: str, licence: str) -> None:
        """Write the tables and descriptions of the dataset and its derivatives."""
        generated = [{"Name": _MAKER, "Version": __version__, "Description": description}]
        common = {"BIDSVersion": BIDS_VERSION, "License": licence, "GeneratedBy": generated}
        write_json(
            self._folder / "dataset_description.json",
            {"Name": name, "DatasetType": "raw", "Authors": [_MAKER], **common},
        )
        labels = self._folder / "derivatives" / "labels"
        write_json(
            labels / "dataset_description.json", {"Name": f"{name} truth", "DatasetType": "derivative", **common}
        )
        rows = ["\t".join(_COLUMNS)]
        for subject, info in sorted(self._participants.items()):
            findings = ",".join(info["pathologies"]) or "n/a"
            rows.append("\t".join((subject, info["sex"], str(info["age"]), info["anomaly"] or "n/a", findings)))
        write_text(self._folder / "participants.tsv", "\n".join(rows) + "\n")
        names = scheme("nnunet14").labels
        table = ["index\tname", *(f"{number}\t{label}" for number, label in sorted(names.items()))]
        write_text(labels / "label-spine_dseg.tsv", "\n".join(table) + "\n")
        write_text(self._folder / "README", f"{description}\n")
        if "ct" in self._folders:
            # BIDS has no CT yet; its validator passes over what is named here.
            write_text(self._folder / ".bidsignore", "*/ct/\n")


def sidecar(scan: Scan) -> dict[str, Any]:
    """Return the BIDS sidecar of an image: times in seconds, lengths in mm, degrees, tesla."""
    row = scan.protocol
    slices = scan.image.spacing[2]
    content: dict[str, Any] = {
        "Manufacturer": scan.info["manufacturer"],
        "ManufacturersModelName": scan.info["model"],
        "SliceThickness": round(slices * (1 - row.gap), 4),
        "SpacingBetweenSlices": round(slices, 4),
    }
    if row.sequence == "ct":
        return {"Modality": "CT", "KVP": 120, **content}
    content |= {
        "Modality": "MR",
        "MagneticFieldStrength": row.field_strength,
        "MRAcquisitionType": "3D" if row.volume else "2D",
        "PulseSequenceType": row.sequence,
        "RepetitionTime": row.tr / 1000,
        "EchoTime": row.te / 1000,
        "FlipAngle": row.flip,
        "PixelBandwidth": row.bandwidth,
    }
    if row.suffix == "MTS":
        content |= {"MTState": True, "RepetitionTimeExcitation": row.tr / 1000}
    return content | ({"InversionTime": row.ti / 1000} if row.ti else {})


def _usage(file: Path, found: str, expected: str, fix: str) -> UsageError:
    return UsageError("E-PHANTOM-OUTPUT", file=file, found=found, expected=expected, fix=fix)
