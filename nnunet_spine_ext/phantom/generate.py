"""Cohorts of digital spines as an nnU-Net raw dataset or a BIDS tree."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from nnunet_spine_ext.augment.profiles import Scanner, parse_scanner
from nnunet_spine_ext.core.dataset import DatasetSpec, RawCase, dataset_writer
from nnunet_spine_ext.core.errors import UsageError
from nnunet_spine_ext.core.labels import scheme
from nnunet_spine_ext.core.summary import RunSummary
from nnunet_spine_ext.phantom.bids import bids_writer
from nnunet_spine_ext.phantom.making import Task, make_scans
from nnunet_spine_ext.phantom.overrides import checked
from nnunet_spine_ext.phantom.protocols import Protocol
from nnunet_spine_ext.phantom.protocols import protocol as protocol_named
from nnunet_spine_ext.phantom.scan import Scan, ScanRequest
from nnunet_spine_ext.phantom.scanners import at_scanner
from nnunet_spine_ext.phantom.vendors import at_vendor

REGIONS = ("whole", "cervical", "thoracic", "lumbar")
LAYOUTS = ("nnunet", "bids")
TRUTH_FOLDER = "phantomTr"
DESCRIPTION = "Digital spine phantoms made by nnunet_spine_ext; no person was scanned."
LICENCE = "CC0-1.0"
_PROTOCOLS = ("t2w_sagittal",)


def phantom(
    o: str | Path,
    *,
    n: int = 8,
    protocol: Sequence[str] = _PROTOCOLS,
    scanner: Sequence[str] = (),
    vendor: Sequence[str] = (),
    seed: int = 0,
    region: str = "whole",
    spacing: Sequence[float] | None = None,
    layout: str = "nnunet",
    dataset_id: int = 900,
    name: str = "SpinePhantom",
    folds: int = 5,
    jobs: int = 1,
    anomalies: str = "natural",
    pathologies: bool = True,
    oblique: float = 0.0,
    width: float | None = None,
    supersample: int | None = None,
    overrides: Mapping[str, Any] | Sequence[str] = (),
    overwrite: bool = False,
) -> RunSummary:
    """Make `n` digital spines, scan each with every protocol, and write them with their truth.

    Equal arguments give equal bytes, whatever `jobs` is; subject k of a seed does not depend on `n`. The folder
    appears under its final name when it is complete; an interrupted run leaves nothing.

    Parameters
    ----------
    o: nnunet layout: the nnUNet_raw folder that gets ``Dataset<dataset_id>_<name>``; bids: the folder that gets
        ``<name>``. When `o` is the folder in ``nnUNet_raw`` and ``nnUNet_preprocessed`` is set, splits and
        cases.json are also written there, where nnU-Net reads them.
    n: number of spines. Several protocols make several cases per subject, kept together in the splits.
    protocol: names in `protocols.PROTOCOLS`; a single name may be given as a string.
    scanner: ``PROFILE[:component=severity…]`` as in `augment.profiles.parse_scanner`; of several, spines take turns.
    vendor: instead of protocols, published T1w protocols of these vendors (`vendors.vendor_names`), drawn for each
        spine; of several, spines take turns. nnunet layout, without scanner or spacing.
    seed: non-negative.
    region: one of `REGIONS`.
    spacing: voxel size (in plane, in plane, between slices) in mm instead of the protocol's.
    layout: one of `LAYOUTS`.
    folds: folds of the grouped split (nnunet layout).
    jobs: processes.
    anomalies, pathologies: see `parameters.sample_parameters`.
    oblique: largest tilt of the scan in degrees.
    width: extent from left to right in mm instead of the protocol's.
    supersample: sub-voxels per voxel and axis; None: as many as keep them below 1.1 mm.
    overrides: further arguments of `sample_parameters` for all spines, a mapping or ``key=value`` strings, such as
        ``scoliosis=30`` or ``findings=fused:L3,missing_disc:L4``.
    overwrite: replace what a former run with the same name wrote.

    Returns
    -------
    Summary listing the cases.

    Raises
    ------
    UsageError: an argument outside its range, an unknown protocol, or output that exists.
    SetupError: a process died.
    """
    names = [protocol] if isinstance(protocol, str) else list(dict.fromkeys(protocol))
    protocols = tuple(protocol_named(key).with_spacing(spacing) for key in names)
    _check(n=n, seed=seed, region=region, layout=layout, jobs=jobs, folds=folds, oblique=oblique, names=names)
    if supersample is not None and not 1 <= supersample <= 8:
        raise _usage("--supersample", supersample, "1 to 8")
    if width is not None and not 10 <= width <= 600:
        raise _usage("--width", width, "10 to 600 mm")
    request = ScanRequest(
        protocols, seed, region, anomalies, pathologies, oblique, supersample, width, _overrides(overrides),
        _scanners(scanner, protocols),
    )  # fmt: skip
    tasks = _tasks(request, n, [vendor] if isinstance(vendor, str) else vendor, layout, spacing, names)
    with no_empty_folder(Path(o)):
        if layout == "nnunet":
            return _write_nnunet(tasks, Path(o), jobs, dataset_id, name, folds, overwrite=overwrite)
        return _write_bids(request, Path(o), n, jobs, name, overwrite=overwrite)


@contextmanager
def no_empty_folder(root: Path) -> Iterator[None]:
    """Take away the folders on the way to `root` that were made inside the block and are empty at its end."""
    absent = [folder for folder in (root, *root.parents) if not folder.exists()]
    try:
        yield
    finally:
        for folder in absent:
            with suppress(OSError):
                folder.rmdir()


def case_name(scan: Scan, protocols: Sequence[Protocol]) -> str:
    """Return ``<subject>`` for runs with one protocol, else ``<subject>_<protocol>``."""
    return scan.subject if len(protocols) == 1 else f"{scan.subject}_{scan.protocol.name}"


def _check(
    *, n: int, seed: int, region: str, layout: str, jobs: int, folds: int, oblique: float, names: list[str]
) -> None:
    rules: tuple[tuple[str, object, bool, str], ...] = (
        ("--n", n, 1 <= n <= 9999, "1 to 9999 spines"),
        ("--seed", seed, seed >= 0, "a number that is not negative"),
        ("--region", region, region in REGIONS, f"one of {', '.join(REGIONS)}"),
        ("--layout", layout, layout in LAYOUTS, f"one of {', '.join(LAYOUTS)}"),
        ("--jobs", jobs, jobs >= 1, "at least one process"),
        ("--folds", folds, folds >= 2, "at least 2 folds"),
        ("--oblique", oblique, 0 <= oblique <= 30, "0 to 30 degrees"),
        ("--protocol", names, bool(names), "at least one protocol"),
    )
    for option, value, valid, expected in rules:
        if not valid:
            raise _usage(option, value, expected)


def _scanners(given: Sequence[str], protocols: Sequence[Protocol]) -> tuple[Scanner, ...]:
    """Return the scanners, each tried on every protocol before any spine is made."""
    scanners = tuple(parse_scanner(text) for text in ([given] if isinstance(given, str) else given))
    for scanner in scanners:
        for row in protocols:
            at_scanner(row, scanner)
    return scanners


def _usage(option: str, value: object, expected: str) -> UsageError:
    return UsageError("E-PHANTOM-OPTION", found=f"{option} {value}", expected=expected, fix="correct the option")


def _overrides(given: Mapping[str, Any] | Sequence[str]) -> dict[str, Any]:
    """Return checked overrides from a mapping or ``key=value`` strings."""
    if isinstance(given, Mapping):
        return checked(given)
    pairs: dict[str, str] = {}
    for text in given:
        key, equals, value = text.partition("=")
        if not key or not equals:
            raise _usage("--set", text, "key=value")
        pairs[key] = value
    return checked(pairs)


def _tasks(
    request: ScanRequest,
    n: int,
    names: Sequence[str],
    layout: str,
    spacing: Sequence[float] | None,
    protocols: list[str],
) -> list[Task]:
    """Return what to scan; vendors, whose protocols are drawn spine by spine, take turns."""
    if not names:
        return [(request, index) for index in range(n)]
    others = {"--scanner": request.scanners, "--spacing": spacing, "--protocol": protocols != [*_PROTOCOLS]}
    for option, given in others.items():
        if given:
            raise _usage("--vendor with", option, "either: a vendor has its own protocol, voxels and scanner")
    if layout != "nnunet":
        raise _usage("--vendor with --layout", layout, "nnunet: cases.json says which vendor a case is of")
    return [(at_vendor(request, names[index % len(names)], index), index) for index in range(n)]


def _write_nnunet(
    tasks: Sequence[Task], root: Path, jobs: int, dataset_id: int, name: str, folds: int, *, overwrite: bool
) -> RunSummary:
    request = tasks[0][0]
    spec = phantom_spec(request.protocols, dataset_id, name)
    preprocessed = preprocessed_root(root)
    summary = RunSummary()
    with dataset_writer(root, spec, folds=folds, preprocessed_root=preprocessed, overwrite=overwrite) as writer:
        for scan in make_scans(tasks, jobs):
            case = case_name(scan, request.protocols)
            info = {**scan.info, "seed": request.seed, "region": request.region}
            writer.add(RawCase(case, scan.subject, [scan.image], scan.semantic, scan.instances, info))
            writer.add_json(f"{TRUTH_FOLDER}/{case}.json", scan.truth)
            summary.done.append(case)
    summary.title = f"{writer.folder}: {len(tasks)} spines, {len(request.protocols)} scan(s) each"
    return summary


def phantom_spec(protocols: Sequence[Protocol], dataset_id: int, name: str) -> DatasetSpec:
    """Return the description of a dataset of phantoms."""
    nnunet14 = scheme("nnunet14")
    contrasts = "_".join(dict.fromkeys(row.contrast for row in protocols))
    return DatasetSpec(
        dataset_id=dataset_id,
        name=name,
        channel_names={0: contrasts},
        labels={label: number for number, label in nnunet14.labels.items() if number != 0},
        scheme="nnunet14",
        sided_labels=tuple(nnunet14.sided_pairs),
        description=DESCRIPTION,
        licence=LICENCE,
    )


def preprocessed_root(root: Path) -> Path | None:
    """Return nnUNet_preprocessed when the output is nnUNet_raw: a dataset written elsewhere is not nnU-Net's yet."""
    raw = os.environ.get("nnUNet_raw")
    preprocessed = os.environ.get("nnUNet_preprocessed")
    if raw and preprocessed and Path(raw).resolve() == root.resolve():
        return Path(preprocessed)
    return None


def _write_bids(request: ScanRequest, root: Path, n: int, jobs: int, name: str, *, overwrite: bool) -> RunSummary:
    summary = RunSummary(title=f"{root / name}: {n} spines, {len(request.protocols)} scan(s) each")
    with bids_writer(root, name, request.protocols, DESCRIPTION, LICENCE, overwrite=overwrite) as writer:
        for scan in make_scans([(request, index) for index in range(n)], jobs):
            summary.done.append(writer.add(scan))
    return summary
