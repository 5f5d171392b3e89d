"""Cohorts of digital spines that several vendors scanned, each with its own T1w protocol."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from nnunet_spine_ext.core.cases import RawCase
from nnunet_spine_ext.core.config import nearest
from nnunet_spine_ext.core.dataset import dataset_writer
from nnunet_spine_ext.core.errors import UsageError
from nnunet_spine_ext.core.summary import RunSummary
from nnunet_spine_ext.phantom.generate import REGIONS, TRUTH_FOLDER, no_empty_folder, phantom_spec, preprocessed_root
from nnunet_spine_ext.phantom.making import Task, make_scans
from nnunet_spine_ext.phantom.scan import ScanRequest
from nnunet_spine_ext.phantom.vendors import at_vendor, vendor, vendor_names
from nnunet_spine_ext.phantom.vendors import vendors as all_vendors

# Spines of a vendor are numbered from its place in the table on, whoever else is asked for.
_PER_VENDOR, _TRAVELLERS = 1000, 900_000
_MOST = _PER_VENDOR - 1
# Names of subjects have room for four digits, and more where they are needed.
_SEEDS = 2**31


@dataclass
class VendorPhantoms(RunSummary):
    """What was made: the raw dataset's folder, and the cases of each vendor."""

    folder: Path = field(default_factory=Path)
    cases: dict[str, list[str]] = field(default_factory=dict)


def vendor_phantoms(
    folder: str | Path,
    *,
    vendors: Sequence[str] | None = None,
    subjects_per_vendor: int | Mapping[str, int] = 4,
    travelling: int = 0,
    skip: int = 0,
    seed: int = 0,
    region: str = "lumbar",
    width: float = 48.0,
    finest: float | None = None,
    severity: float = 1.0,
    dataset_id: int = 910,
    name: str = "SpineVendors",
    folds: int = 5,
    jobs: int = 1,
    overwrite: bool = False,
) -> VendorPhantoms:
    """Make a raw dataset of T1w phantoms by vendor, with labels of the 14 classes, instances and cases.json.

    Each vendor has people of its own. The protocol of a scan is drawn from the published ranges. cases.json states
    subject, manufacturer, model, `vendor` (the key of the table), contrast, TR, TE and more. Equal arguments give equal
    bytes whatever `jobs` is; a spine does not depend on how many others, or which other vendors, there are.

    Parameters
    ----------
    folder: gets ``Dataset<dataset_id>_<name>``.
    vendors: keys of the table; None: all whose protocol is published.
    subjects_per_vendor: spines of each vendor, one number or one per vendor (0 to 999).
    travelling: further spines, scanned by every vendor: the same anatomy with each style. Their cases end in
        ``_<vendor>``.
    skip: so many of each vendor's own people are left out: a second dataset with ``skip`` of the first one's number
        has other people with other names.
    region: as in `generate.phantom`. width: mm from left to right.
    finest: pixels are stored no finer than this (mm): quicker; None: as published.
    severity: of what is assumed about the scanners, relative to the target's; see `vendors.Vendor.draw`.

    Raises
    ------
    UsageError: an unknown vendor or one without a published protocol, numbers outside their limits, output that exists.
    SetupError: a process died.
    """
    names = list(dict.fromkeys(vendor_names() if vendors is None else vendors))
    counts = _counts(names, subjects_per_vendor)
    _check(names, counts, travelling, skip, seed, region, width, finest, severity, jobs, folds)
    base = ScanRequest((), seed=seed, region=region, width=width)
    tasks = _tasks(base, counts, travelling, skip, finest, severity)
    root = Path(folder)
    made = VendorPhantoms(cases={key: [] for key in names})
    spec = phantom_spec(tasks[0][0].protocols, dataset_id, name)
    with (
        no_empty_folder(root),
        dataset_writer(
            root, spec, folds=folds, preprocessed_root=preprocessed_root(root), overwrite=overwrite
        ) as writer,
    ):
        for (request, index), scan in zip(tasks, make_scans(tasks, jobs), strict=True):
            key = str(request.facts["vendor"])
            case = f"{scan.subject}_{key}" if index >= _TRAVELLERS else scan.subject
            info = {
                **scan.info,
                "seed": seed,
                "region": region,
                "severity": severity,
                "travelling": index >= _TRAVELLERS,
            }
            writer.add(RawCase(case, scan.subject, [scan.image], scan.semantic, scan.instances, info))
            writer.add_json(f"{TRUTH_FOLDER}/{case}.json", scan.truth)
            made.done.append(case)
            made.cases[key].append(case)
    made.folder = writer.folder
    made.title = f"{writer.folder}: {len(tasks)} scans of {len(names)} vendor(s)"
    return made


def _tasks(
    base: ScanRequest,
    counts: Mapping[str, int],
    travelling: int,
    skip: int,
    finest: float | None,
    severity: float,
) -> list[Task]:
    """Return all scans: those of every vendor's own people, then those of each traveller."""
    tasks: list[Task] = []
    for key, count in counts.items():
        start = _place(key) * _PER_VENDOR + skip
        tasks += [
            (at_vendor(base, key, index, finest=finest, severity=severity), index)
            for index in range(start, start + count)
        ]
    # Who travels has the same findings everywhere, be the vendor's own people healthy or not.
    tasks += [
        (replace(at_vendor(base, key, index, finest=finest, severity=severity), pathologies=True), index)
        for index in range(_TRAVELLERS, _TRAVELLERS + travelling)
        for key in counts
    ]
    return tasks


def _place(name: str) -> int:
    return list(all_vendors()).index(name)


def _counts(names: Sequence[str], given: int | Mapping[str, int]) -> dict[str, int]:
    if not isinstance(given, Mapping):
        return dict.fromkeys(names, given)
    strange = [key for key in given if key not in names]
    if strange:
        raise UsageError(
            "E-PHANTOM-VENDOR",
            file="subjects_per_vendor",
            found=f"a number of spines of {strange[0]!r}, which is not among the vendors",
            expected="the vendors that are made",
            fix=nearest(strange[0], names),
        )
    return {key: int(given.get(key, 0)) for key in names}


def _check(
    names: Sequence[str],
    counts: Mapping[str, int],
    travelling: int,
    skip: int,
    seed: int,
    region: str,
    width: float,
    finest: float | None,
    severity: float,
    jobs: int,
    folds: int,
) -> None:
    """Refuse what cannot be made before anything is."""
    for name in names:
        vendor(name).draw(np.random.default_rng(0), severity=severity)
    rules: tuple[tuple[str, object, bool, str], ...] = (
        ("vendors", names, bool(names), "at least one"),
        ("subjects_per_vendor", dict(counts), all(0 <= n <= _MOST for n in counts.values()), f"0 to {_MOST}"),
        ("travelling", travelling, 0 <= travelling <= _MOST, f"0 to {_MOST}"),
        ("skip", skip, 0 <= skip <= _MOST - max(counts.values(), default=0), f"0 to {_MOST} with a vendor's spines"),
        ("spines", 0, sum(counts.values()) + travelling > 0, "at least one"),
        ("seed", seed, 0 <= seed < _SEEDS, "a number that is not negative"),
        ("region", region, region in REGIONS, f"one of {', '.join(REGIONS)}"),
        ("width", width, 10 <= width <= 600, "10 to 600 mm"),
        ("finest", finest, finest is None or 0.2 <= finest <= 3, "0.2 to 3 mm"),
        ("jobs", jobs, jobs >= 1, "at least one process"),
        ("folds", folds, folds >= 2, "at least 2 folds"),
    )
    for option, value, valid, expected in rules:
        if not valid:
            raise UsageError("E-PHANTOM-OPTION", found=f"{option} {value}", expected=expected, fix="correct the option")
