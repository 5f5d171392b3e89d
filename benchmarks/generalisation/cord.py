"""Real T2w volumes with manual cord masks: three sources, each leaving one subject out, which is its in-domain test."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Any

from generalisation.arms import HERE, PEER_PYTHON
from generalisation.compare import Source
from generalisation.configs import our_augmentation
from generalisation.domains import Case, corrupted_images, dataset, preprocess, real_cases
from generalisation.presets import PLANS, RunSize, run_size
from nnunet_spine_ext.core.io import read_volume, write_json, write_volume

SUBJECTS = ("11", "18", "23")
CLASSES = {"1": "cord"}
_SPACING = 2.0
_CORD = {"cord": ((1,), (1,))}


def cord_sources(folder: Path, arguments: Any) -> tuple[list[Source], RunSize]:
    """Make one data set per left-out subject, resampled to the grid of the run, plan and preprocess."""
    data = os.environ.get("NNUNET_SPINE_TEST_DATA")
    if not data:
        sys.exit("set NNUNET_SPINE_TEST_DATA to the folder of real images")
    run = run_size(arguments, test=0)
    files = _files(Path(data))
    names = [f"Without{subject}" for subject in SUBJECTS]
    for number, subject in enumerate(SUBJECTS):
        target = folder / "nnUNet_raw" / dataset(names, number)
        if not (target / "splits.json").exists():
            _write(target, {name: pair for name, pair in files.items() if name != f"errsm_{subject}"})
    augment = our_augmentation(classes=CLASSES)
    preprocess(folder, names, run.network, PLANS, augment)
    others = {
        name: [(case, images, mask, _CORD) for case, images, mask, structures in cases if "errsm" not in case]
        for name, cases in real_cases(Path(data)).items()
        if name != "real TPTBox"
    }
    sources = []
    for number, subject in enumerate(SUBJECTS):
        case = f"errsm_{subject}"
        image, mask = files[case]
        sets: dict[str, list[Case]] = {"cord": [(case, [str(image)], str(mask), _CORD)]}
        if PEER_PYTHON.exists():
            images = corrupted_images(folder, case, image, PEER_PYTHON, HERE / "corruptions.yaml")
            sets |= {f"cord {kind}": [(case, [str(path)], str(mask), _CORD)] for kind, path in images.items()}
        # The networks of the three sources see the same volumes: their scores are averaged per volume.
        sets |= {name: cases for name, cases in others.items() if cases}
        sources.append(Source(dataset(names, number), PLANS, sets))
    return sources, run


def _files(data: Path) -> dict[str, tuple[Path, Path]]:
    errsm, crop = data / "sct-errsm", data / "sct-testing" / "t2"
    files = {
        f"errsm_{n}": (errsm / f"errsm_{n}/t2/t2.nii.gz", errsm / f"errsm_{n}/t2/t2_manual_segmentation.nii.gz")
        for n in SUBJECTS
    }
    return files | {"errsm_30": (crop / "t2.nii.gz", crop / "t2_seg-manual.nii.gz")}


def _write(target: Path, files: dict[str, tuple[Path, Path]]) -> None:
    shutil.rmtree(target, ignore_errors=True)
    for name in ("imagesTr", "labelsTr"):
        (target / name).mkdir(parents=True)
    for name, (image, mask) in files.items():
        spacing = [_SPACING] * 3
        write_volume(read_volume(image).resample(spacing), target / "imagesTr" / f"{name}_0000.nii.gz")
        small = read_volume(mask)
        share = small.with_array((small.array > 0).astype("float32")).resample(spacing)
        write_volume(share.with_array((share.array >= 0.5).astype("uint8")), target / "labelsTr" / f"{name}.nii.gz")
    write_json(
        target / "dataset.json",
        {
            "channel_names": {"0": "MRI"}, "labels": {"background": 0, "cord": 1}, "numTraining": len(files),
            "file_ending": ".nii.gz", "overwrite_image_reader_writer": "NibabelIOWithReorient",
        },
    )  # fmt: skip
    # The crop is too small to learn much from, and enough to validate: nothing is chosen by it.
    train = [name for name in files if name != "errsm_30"]
    write_json(target / "splits.json", [{"train": [*train, "errsm_30"], "val": ["errsm_30"]}])
