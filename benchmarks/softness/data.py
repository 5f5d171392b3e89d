"""The cohort on disk: nnU-Net raw datasets with soft and hard labels, and test sets with the truth.

`Dataset941_SixContrasts`: labels from the soft ground truth of all six contrasts, binarised at 0.5 in `labelsTr`.
`Dataset942_OwnMasks`: the same images, each with the mask that was drawn on it. Both hold a few scans without cord,
below it and of nothing but noise, with empty masks: networks that never saw one find cords in noise.
`tests/<set>/<case>.nii.gz` beside `<case>_cord.nii.gz` (true fractions), `<case>_soft.nii.gz` (soft ground truth, where
there is one) and `<case>.json`.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from generalisation.domains import command, environment

from nnunet_spine_ext.core.dataset import DatasetSpec, RawCase, write_raw_dataset
from nnunet_spine_ext.core.io import read_json, read_volume, write_json, write_volume
from nnunet_spine_ext.core.volume import Volume
from nnunet_spine_ext.soft.ground_truth import Recipe, soft_ground_truth
from softness.contrasts import LUMBAR, TRAINED, UNSEEN, Contrast
from softness.phantoms import Shot, facts, noise_only, shoot
from softness.rater import hard_mask
from softness.sizes import Size

SIX, OWN = "SixContrasts", "OwnMasks"
DATASETS = {SIX: "Dataset941_SixContrasts", OWN: "Dataset942_OwnMasks"}
FOLDS = ("all", *TRAINED)
"""What each fold trains on: all contrasts, or one."""
SEEDS = {
    "train": 1000, "blank": 100_000, "test": 200_000, "compressed": 300_000, "lesioned": 400_000, "lumbar": 500_000,
}  # fmt: skip
REFERENCE = "T2w"
_MADE = "made.json"
_VERSION = 2


def make(folder: Path, size: Size) -> None:
    """Make all data of a run, once; data of another size are replaced."""
    wanted = {"version": _VERSION, **{k: v for k, v in asdict(size).items() if isinstance(v, int)}}
    for key in ("epochs", "iterations", "seeds", "parallel"):
        wanted.pop(key)
    marker = folder / _MADE
    if marker.exists() and read_json(marker) == json.loads(json.dumps(wanted)):
        return
    own = [folder / name for name in ("nnUNet_raw", "nnUNet_preprocessed", "trained", "tests")]
    if any(path.exists() for path in own) and not marker.exists():
        sys.exit(f"{folder} holds data that this benchmark did not make; choose another --out")
    for path in own:
        shutil.rmtree(path, ignore_errors=True)
    write_json(marker, {})
    with ProcessPoolExecutor(size.parallel, mp_context=get_context("spawn")) as pool:
        _write_datasets(folder / "nnUNet_raw", size, pool)
        _write_tests(folder / "tests", size, pool)
    write_json(marker, wanted)


def subject(seed: int, kind: str = "healthy", contrasts: Sequence[Contrast] = tuple(TRAINED.values())) -> list[Shot]:
    """Scan one subject; for a pool of processes."""
    return shoot(seed, contrasts, kind)


def labelled(seed: int) -> tuple[list[Shot], dict[str, Volume], dict[str, Volume]]:
    """Return the scans of a subject, the masks drawn on each, and the soft ground truth on each."""
    shots = shoot(seed, [*TRAINED.values()])
    masks = {shot.contrast: hard_mask(shot.image, shot.cord) for shot in shots}
    return shots, masks, soft_labels(masks)


def soft_labels(masks: dict[str, Volume]) -> dict[str, Volume]:
    """Return the soft label (float32, -1 = not known) on the grid of each mask."""
    return soft_ground_truth(masks, Recipe(reference=REFERENCE)).soft


def binarised(soft: Volume) -> Volume:
    """Return 1 where a soft label exceeds 0.5, 2 (ignore) where it is not known."""
    return soft.with_array(np.where(soft.array < 0, 2, soft.array > 0.5).astype(np.uint8))


def _write_datasets(raw: Path, size: Size, pool: ProcessPoolExecutor) -> None:
    raw.mkdir(parents=True, exist_ok=True)
    seeds = [SEEDS["train"] + number for number in range(size.train + size.validation)]
    splits = _splits([f"s{seed}" for seed in seeds], size.validation, [name for name, _, _ in _blank_names(size.blank)])
    folders = {name: raw / "parts" / name for name in ("six", "own", "soft")}
    made = _labels(folders, raw.parent / "tests", seeds, size.validation, pool)
    made += _blanks(folders, size.blank)
    for name, part, ignore in ((SIX, "six", True), (OWN, "own", False)):
        spec = DatasetSpec(int(DATASETS[name][7:10]), name, {0: "MRI"}, {"cord": 1}, ignore=ignore)
        target = write_raw_dataset(raw, spec, _cases(made, folders[part]), splits=splits, overwrite=True)
        if name == SIX:
            shutil.move(folders["soft"], target / "softLabelsTr")
    shutil.rmtree(raw / "parts")


def _labels(
    folders: dict[str, Path], tests: Path, seeds: Sequence[int], validation: int, pool: ProcessPoolExecutor
) -> list[tuple[str, str, Path]]:
    """Write images and all kinds of labels of the training subjects; return (case, subject, image) of each.

    The subjects that validate also become a test set: it chooses between activations.
    """
    made = []
    for seed, (shots, masks, soft) in zip(seeds, pool.map(labelled, seeds), strict=True):
        for shot in shots:
            case = f"s{seed}_{shot.contrast}"
            image = folders["six"] / f"{case}_image.nii.gz"
            write_volume(shot.image, image)
            write_volume(soft[shot.contrast], folders["soft"] / f"{case}.nii.gz")
            write_volume(binarised(soft[shot.contrast]), folders["six"] / f"{case}.nii.gz")
            write_volume(masks[shot.contrast], folders["own"] / f"{case}.nii.gz")
            made.append((case, f"s{seed}", image))
            if seed in seeds[-validation:]:
                _write_case(tests / "validation", f"s{seed}", shot, soft[shot.contrast])
        print(f"training subject s{seed}", flush=True)
    return made


def _blank_names(count: int) -> list[tuple[str, str, int]]:
    """Return (case, subject, seed) of the training scans without cord: below it, and of noise."""
    seeds = [SEEDS["blank"] + number for number in range(count)]
    return [(f"s{seed}_{kind}", f"s{seed}", seed) for seed in seeds for kind in ("below", "noise")]


def _blanks(folders: dict[str, Path], count: int) -> list[tuple[str, str, Path]]:
    """Write scans without cord with empty masks; without a soft label their hard one is used."""
    made = []
    for case, name, seed in _blank_names(count):
        (shot,) = shoot(seed, [LUMBAR])
        image = noise_only(shot, seed) if case.endswith("noise") else shot.image
        file = folders["six"] / f"{case}_image.nii.gz"
        write_volume(image, file)
        for part in ("six", "own"):
            write_volume(image.with_array(np.zeros(image.shape, np.uint8)), folders[part] / f"{case}.nii.gz")
        made.append((case, name, file))
    return made


def _cases(made: Iterable[tuple[str, str, Path]], labels: Path) -> Iterator[RawCase]:
    for case, subject_name, image in made:
        info = {"contrast": case.partition("_")[2], "manufacturer": "simulated"}
        yield RawCase(case, subject_name, [read_volume(image)], read_volume(labels / f"{case}.nii.gz"), info=info)


def _splits(subjects: Sequence[str], validation: int, blank: Sequence[str]) -> list[dict[str, list[str]]]:
    """Return a split per entry of `FOLDS`; the last subjects validate in all of them, all train with blank scans."""
    sides = {"train": subjects[:-validation], "val": subjects[-validation:]}
    splits = [
        {side: [f"{s}_{c}" for s in names for c in TRAINED if fold in ("all", c)] for side, names in sides.items()}
        for fold in FOLDS
    ]
    return [{"train": [*split["train"], *blank], "val": split["val"]} for split in splits]


def _write_tests(folder: Path, size: Size, pool: ProcessPoolExecutor) -> None:
    seeds = [SEEDS["test"] + number for number in range(size.test)]
    for seed, (shots, _, soft) in zip(seeds, pool.map(labelled, seeds), strict=True):
        for shot in shots:
            _write_case(folder / "six", f"s{seed}", shot, soft[shot.contrast])
    others = partial(subject, contrasts=tuple(UNSEEN.values()))
    for seed, shots in zip(seeds, pool.map(others, seeds), strict=True):
        for shot in shots:
            _write_case(folder / "unseen", f"s{seed}", shot)
    for kind, count in (("compressed", size.compressed), ("lesioned", size.lesioned)):
        sick = [SEEDS[kind] + number for number in range(count)]
        for seed, shots in zip(sick, pool.map(partial(subject, kind=kind), sick), strict=True):
            for shot in shots:
                _write_case(folder / kind, f"s{seed}", shot)
    for number in range(size.volumes):
        (shot,) = shoot(SEEDS["lumbar"] + number, [LUMBAR])
        _write_case(folder / "cord-free", f"s{SEEDS['lumbar'] + number}", shot)
        noise = noise_only(shot, number)
        nothing = Shot("noise", noise, shot.cord.with_array(np.zeros_like(shot.cord.array)), [], (0.0, 0.0, 0.0))
        _write_case(folder / "empty", f"s{number}", nothing)
    print("test sets made", flush=True)


def _write_case(folder: Path, name: str, shot: Shot, soft: Volume | None = None) -> None:
    case = f"{name}_{shot.contrast}"
    write_volume(shot.image, folder / f"{case}.nii.gz")
    write_volume(shot.cord, folder / f"{case}_cord.nii.gz")
    if soft is not None:
        write_volume(soft, folder / f"{case}_soft.nii.gz")
    write_json(folder / f"{case}.json", {"subject": name, **facts(shot)})


def preprocess(folder: Path, network: Path, names: Sequence[str]) -> None:
    """Plan and preprocess datasets with nnU-Net on the grid of the preset; `bench` are the plans of all arms."""
    values = environment(folder)
    for name in names:
        target = folder / "nnUNet_preprocessed" / DATASETS[name]
        done = target / "preprocessed.json"
        wanted: dict[str, Any] = {"network": network.read_text()}
        if done.exists() and read_json(done) == wanted:
            continue
        shutil.rmtree(target, ignore_errors=True)
        number = DATASETS[name][7:10].lstrip("0")
        planning = [command("nnUNetv2_plan_and_preprocess"), "-d", number, "-c", "3d_fullres", "-npfp", "1", "--no_pp"]
        ours = [command("nnUNetv2_spine_plan"), "-d", number, "--name", "bench", "--preset", str(network), "-q"]
        making = [command("nnUNetv2_preprocess"), "-d", number, "-plans_name", "bench", "-c", "3d_fullres", "-np", "2"]
        for words in (planning, ours, making):
            _run(words, values, folder / "preprocess.log")
        write_json(done, wanted)


def _run(words: Sequence[str], values: dict[str, str], log: Path) -> None:
    """Run a command; end with its last lines if it fails."""
    with log.open("a") as stream:
        code = subprocess.run(words, stdout=stream, stderr=subprocess.STDOUT, env=values, check=False).returncode
    if code:
        print("".join(log.read_text().splitlines(keepends=True)[-15:]))
        sys.exit(f"{words[0]} ended with {code}; see {log}")


def test_cases(folder: Path) -> dict[str, list[Path]]:
    """Return the cases of every test set, as their JSON files."""
    return {
        name: sorted((folder / "tests" / name).glob("*.json"))
        for name in ("validation", "six", "unseen", "compressed", "lesioned", "cord-free", "empty")
    }
