"""Does the network that names vertebrae learn, and what does the exact solver add? Trained and tested on phantoms.

    python benchmarks/numbering_training.py --out DIR [--preset cpu] [--inputs NAME ...] [--quick] [--record FILE]

Phantoms with anomalies of the counts (40 % of spines: 11 or 13 thoracic, 4 or 6 lumbar vertebrae) are made, some to
train on, the others to test on. Tested are whole spines, and parts of them without anchors: windows of 5 to 10
vertebrae that hold neither C1 nor C2 nor sacrum, cut through the vertebrae at both ends. Instances are the true ones,
counted from the top: what is measured is the numbering. Three answers are compared: the most likely level of each
vertebra by itself (single); the best sequence by the solver from the scores alone (solved); the numbering with all its
evidence, which may also leave levels open (numbered). Beside them what is found without the network: by the solver when
all levels are equally likely (no_scores), and by the numbering (numbered_without). What is finished in --out is kept:
an interrupted run goes on. The last line is the summary.
"""

from __future__ import annotations

import argparse
import json
import logging
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nnunet_spine_ext.core.errors import SpineExtError
from nnunet_spine_ext.core.io import read_json, read_volume, write_json
from nnunet_spine_ext.core.labels import VERTEBRAE
from nnunet_spine_ext.core.volume import Volume
from nnunet_spine_ext.measure.centroids import centroids
from nnunet_spine_ext.numbering.classifier import Classifier, load_classifier
from nnunet_spine_ext.numbering.crops import vertebrae_of
from nnunet_spine_ext.numbering.interface import number
from nnunet_spine_ext.numbering.levels import LEVELS
from nnunet_spine_ext.numbering.scores import VertebraScores
from nnunet_spine_ext.numbering.training.run import train_numbering
from nnunet_spine_ext.numbering.training.scores import level_metrics, most_likely, solved
from nnunet_spine_ext.phantom.generate import phantom

# Id, name, seed, anomalies of the phantoms.
TRAIN, TEST = (801, "NumberingTrain", 11, "oversample"), (802, "NumberingTest", 977, "oversample")
# Two spines of a hundred have a T13, so they get a test of their own.
THIRTEEN = (803, "NumberingThirteen", 1313, "T13")
SPACING = (1.5, 1.5, 3.3)
# Spines, epochs: 'cpu' stays below half an hour of one core, 'quick' within some minutes.
PRESETS: dict[str, dict[str, Any]] = {
    "cpu": {"train": 64, "test": 24, "thirteen": 8, "windows": 3, "settings": ["epochs=24", "validate_every=24"]},
    "quick": {
        "train": 4,
        "test": 2,
        "thirteen": 1,
        "windows": 1,
        "settings": ["epochs=2", "samples_per_epoch=96", "network.width=8", "validate_every=2"],
    },
}
GROUPS = ("whole", "parts", "thirteen_whole", "thirteen_parts")
_SACRUM = 26
# Of a vertebra that is cut off, less than this is no vertebra of its own (mm³; as in the instance phase).
_LEAST_MM3 = 300.0


@dataclass(frozen=True)
class Scan:
    """One scan to number: image, classes, instances counted from the top, true levels head to tail."""

    name: str
    image: Volume
    semantic: Volume
    instances: Volume
    levels: tuple[str, ...]

    @property
    def sacrum(self) -> bool:
        """Whether the sacrum is in the picture."""
        return bool((self.instances.array == _SACRUM).any())


def make_phantoms(out: Path, which: tuple[int, str, int, str], count: int) -> Path:
    """Make a dataset of phantoms, unless it is there."""
    number_, name, seed, anomalies = which
    folder = out / "raw" / f"Dataset{number_}_{name}"
    if not (folder / "cases.json").is_file():
        logging.info("%d phantoms: %s", count, folder)
        phantom(
            out / "raw", n=count, seed=seed, spacing=SPACING, supersample=1, anomalies=anomalies, dataset_id=number_,
            name=name,
        )  # fmt: skip
    return folder


def read_scan(folder: Path, case: str) -> tuple[Volume, Volume, Volume]:
    """Return image, classes and instances with their true ids, in RAS order."""
    names = (f"imagesTr/{case}_0000.nii.gz", f"labelsTr/{case}.nii.gz", f"instancesTr/{case}.nii.gz")
    image, semantic, instances = (read_volume(folder / name).to("RAS") for name in names)
    return image, semantic, instances


def counted(name: str, image: Volume, semantic: Volume, instances: Volume) -> Scan:
    """Return a scan whose vertebrae are counted from the top: true levels are known to nobody but the score."""
    array = instances.array
    table = np.arange(int(array.max()) + 1, dtype=np.uint16)
    volume = instances.voxel_volume
    kept = [k for k in vertebrae_of(instances) if (array == k).sum() * volume >= _LEAST_MM3]
    levels = tuple(VERTEBRAE[k] for k in kept)
    table[1:_SACRUM] = 0
    if len(table) > 28:
        table[28] = 0
    # Discs and endplates would tell the level: they follow their vertebra, those of none go.
    for offset in (100, 200):
        table[offset + 1 : offset + _SACRUM] = 0
        if len(table) > offset + 28:
            table[offset + 28] = 0
    for position, k in enumerate(kept, start=1):
        for offset in (0, 100, 200):
            if offset + k < len(table):
                table[offset + k] = offset + position
    return Scan(name, image, semantic, instances.with_array(table[array]), levels)


def windows(case: str, scan: tuple[Volume, Volume, Volume], count: int) -> Iterator[Scan]:
    """Yield parts of a whole spine without C1, C2 and sacrum."""
    image, semantic, instances = scan
    rng = np.random.default_rng([ord(letter) for letter in case])
    ids = [k for k in vertebrae_of(instances) if k > 2]
    heights = centroids(instances, semantic)
    for number_ in range(count):
        length = int(rng.integers(5, 11))
        first = int(rng.integers(0, len(ids) - length))
        # The cut lies up to half a vertebra beyond the centre of the last one on either side.
        step = abs(heights[ids[first]][2] - heights[ids[first + 1]][2])
        high = heights[ids[first]][2] + rng.uniform(-0.2, 0.5) * step
        low = heights[ids[first + length - 1]][2] - rng.uniform(-0.2, 0.5) * step
        box = (slice(None), slice(None), slice(max(0, round(low)), round(high)))
        parts = [volume.crop(box) for volume in (image, semantic, instances)]
        # A process of the next level, or a corner of the sacrum, may reach in: no window tells more than its bodies do.
        if (parts[2].array == _SACRUM).any():
            kept = np.where(parts[2].array == _SACRUM, 0, parts[2].array)
            parts[2] = parts[2].with_array(kept)
            parts[1] = parts[1].with_array(np.where(parts[1].array == 1, 0, parts[1].array))
        yield counted(f"{case}_{number_}", parts[0], parts[1], parts[2])


def evaluate(classifier: Classifier, folder: Path, count: int, name: str = "") -> dict[str, Any]:
    """Return the metrics of whole spines and of their parts; `name` goes before those of the groups."""
    cases = sorted(read_json(folder / "cases.json")["cases"])
    groups: dict[str, list[Scan]] = {"whole": [], "parts": []}
    result: dict[str, Any] = {}
    for case in cases:
        scan = read_scan(folder, case)
        groups["whole"].append(counted(case, *scan))
        groups["parts"] += windows(case, scan, count)
    for group, scans in groups.items():
        result[f"{name}{group}"] = score(classifier, scans)
    return result


def score(classifier: Classifier, scans: Sequence[Scan]) -> dict[str, Any]:
    """Number scans in three ways and compare with the truth."""
    truth = {scan.name: scan.levels for scan in scans}
    single, whole, full, blind, without = {}, {}, {}, {}, {}
    seconds = 0.0
    for scan in scans:
        image = None if classifier.spec.inputs == "masks" else scan.image
        started = time.process_time()
        scores = classifier.scores(image, scan.instances, scan.semantic)
        seconds += time.process_time() - started
        single[scan.name] = most_likely(scores)
        whole[scan.name] = solved(scores, sacrum=scan.sacrum)
        full[scan.name] = numbered(scan, scores)
        even = VertebraScores(np.full((len(scan.levels), len(LEVELS)), 1 / len(LEVELS)))
        blind[scan.name] = solved(even, sacrum=scan.sacrum)
        without[scan.name] = numbered(scan, None)
    result = {"single": level_metrics(truth, single), "solved": level_metrics(truth, whole)}
    result |= {"numbered": open_metrics(truth, full), "numbered_without": open_metrics(truth, without)}
    result["no_scores"] = level_metrics(truth, blind)
    result["solved_wrong"] = {
        name: f"{levels[0]}-{levels[-1]} taken for {whole[name][0]}-{whole[name][-1]}"
        for name, levels in truth.items()
        if levels != whole[name]
    }
    ordinary = {name for name, levels in truth.items() if not {"T13", "L6"} & set(levels)}
    rare = set(truth) - ordinary
    if rare:
        result["solved_with_T13_or_L6"] = level_metrics(
            {name: truth[name] for name in sorted(rare)}, {name: whole[name] for name in sorted(rare)}
        )
    result["cpu_seconds_per_scan"] = round(seconds / max(len(scans), 1), 3)
    return result


def numbered(scan: Scan, scores: VertebraScores | None) -> tuple[str | None, ...]:
    """Return the levels that the numbering gives, with all its evidence; None: left open."""
    try:
        return number(scan.instances, scan.semantic, "nnunet14", scores=scores).levels
    except SpineExtError as error:
        logging.warning("%s: %s", scan.name, error)
        return (None,) * len(scan.levels)


def open_metrics(truth: dict[str, tuple[str, ...]], found: dict[str, tuple[str | None, ...]]) -> dict[str, Any]:
    """Return metrics of answers that may be open: `known` share of vertebrae, and how right those are."""
    pairs = [(a, b) for case, names in truth.items() for a, b in zip(names, found[case], strict=True)]
    known = [(a, b) for a, b in pairs if b is not None]
    decided = [case for case in truth if None not in found[case]]
    wrong = [
        case for case in truth if any(b is not None and a != b for a, b in zip(truth[case], found[case], strict=True))
    ]
    return {
        "known": round(len(known) / max(len(pairs), 1), 4),
        "accuracy_of_known": round(sum(a == b for a, b in known) / max(len(known), 1), 4),
        "perfect": round(sum(tuple(found[case]) == tuple(truth[case]) for case in truth) / max(len(truth), 1), 4),
        "scans_decided": round(len(decided) / max(len(truth), 1), 4),
        "scans_with_a_wrong_level": round(len(wrong) / max(len(truth), 1), 4),
    }


def run(out: Path, preset: str, inputs: Sequence[str], device: str) -> dict[str, Any]:
    """Make phantoms, train, test; what is finished is kept."""
    plan = PRESETS[preset]
    train = make_phantoms(out, TRAIN, plan["train"])
    test_folder = make_phantoms(out, TEST, plan["test"])
    thirteen = make_phantoms(out, THIRTEEN, plan["thirteen"])
    result: dict[str, Any] = {"preset": preset, **plan, "spacing": SPACING, "arms": {}}
    for name in inputs:
        file = out / f"{name}.json"
        if not file.is_file():
            settings = [*plan["settings"], f"crop.inputs={name}"]
            model = out / f"model_{name}"
            trained = train_numbering(
                train, f=["all"], o=model, preset="cpu", assignments=settings, device=device, resume=True
            )
            classifier = load_classifier(model, device=device)
            row = {"training": trained.folds["all"], **evaluate(classifier, test_folder, plan["windows"])}
            row |= evaluate(classifier, thirteen, plan["windows"], "thirteen_")
            write_json(file, row)
        result["arms"][name] = read_json(file)
    return result


def table(result: dict[str, Any]) -> str:
    """Return the figures as Markdown."""
    lines = [
        "| input | scans | answer | levels right | off by one | C | T | L | perfect sequences |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, arm in result["arms"].items():
        for group in GROUPS:
            for answer in ("no_scores", "single", "solved"):
                row = arm[group][answer]
                regions = " | ".join(f"{row['regions'].get(k, float('nan')):.3f}" for k in "CTL")
                rates = f"{row['accuracy']:.3f} | {row['off_by_one']:.3f} | {regions} | {row['perfect']:.3f}"
                lines.append(f"| {name} | {group} ({row['scans']}) | {answer} | {rates} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for phantoms, models and results")
    parser.add_argument("--preset", choices=sorted(PRESETS), default="cpu")
    parser.add_argument("--quick", action="store_true", help="the preset quick: shows that everything runs")
    parser.add_argument(
        "--inputs", nargs="+", default=["image+masks"], metavar="NAME", help="image+masks, image, masks"
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--restart", action="store_true", help="delete what an earlier run left in --out")
    parser.add_argument("--record", type=Path, help="also write the result to this JSON file")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(1)
    if arguments.restart:
        shutil.rmtree(arguments.out, ignore_errors=True)
    preset = "quick" if arguments.quick else arguments.preset
    out = arguments.out / preset
    result = run(out, preset, arguments.inputs, arguments.device)
    for path in (out / "numbering_training.json", arguments.record):
        if path:
            write_json(path, result)
    print(table(result))
    summary = {
        name: {
            "cpu_minutes": round(arm["training"]["cpu_seconds"] / 60, 1),
            **{
                f"{group}_{answer}": arm[group][answer]["perfect"]
                for group in GROUPS
                for answer in ("no_scores", "single", "solved", "numbered_without", "numbered")
            },
        }
        for name, arm in result["arms"].items()
    }
    print(json.dumps(summary))


if __name__ == "__main__":
    main()
