"""Data sets for generalisation: phantoms of one kind of scan to train on, of eight kinds to test on, and real volumes.

All phantoms lie on one isotropic grid, whatever the scan, so that domains differ in contrast and not in sampling. Three
structures are learned: the column of vertebral bodies and discs, the cord, and what else is in the canal. A few hundred
steps suffice for these. None has a side, because a trainer that mirrors without exchanging labels would lose by that.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_spine_ext.core.io import read_json, read_volume, write_json, write_volume
from nnunet_spine_ext.core.volume import Volume

DOMAINS = {
    "T1w": "t1w_sagittal", "T2w": "t2w_sagittal", "T2starw": "t2star_axial", "MT": "mt_axial",
    "MPRAGE": "t1w_iso", "STIR": "stir_sagittal", "DWI": "dwi_axial", "CT": "ct_sagittal",
}  # fmt: skip
"""Domain -> protocol of the phantom."""

# Ids of the scheme nnunet14 that make up each structure, in the order of the ids that are learned.
STRUCTURES = {"column": (10, 13, 14), "cord": (11,), "canal": (12,)}
TISSUES = {"1": "marrow", "2": "cord", "3": "csf"}
"""What a label is made of, for the transforms that have to know."""

LABELS = {name: number for number, name in enumerate(STRUCTURES, start=1)}
_MARKER = "made.json"
_OWN = ("nnUNet_raw", "tests", "corrupted", "cache", "trained")
Case = tuple[str, list[str], str, dict[str, tuple[tuple[int, ...], tuple[int, ...]]]]


@dataclass(frozen=True)
class Size:
    """How much data: spines to train on (two of them to validate), to test on, voxel size in mm, width in mm."""

    train: int
    test: int
    spacing: float
    width: float
    region: str = "cervical"
    test_seed: int = 100_000


def command(name: str) -> str:
    """Return the path of a command of this interpreter's environment."""
    return str(Path(sys.executable).with_name(name))


def make_phantoms(folder: Path, size: Size, sources: Sequence[str], tests: Sequence[str], jobs: int) -> None:
    """Make nnU-Net raw data sets of the sources, Dataset<921+i>_<domain>, and test sets under `tests`; once."""
    wanted = {"size": size.__dict__, "sources": list(sources), "tests": list(tests)}
    marker = folder / _MARKER
    if marker.exists() and read_json(marker) == wanted:
        return
    _empty(folder)
    for kind, domains, count, seed in (("train", sources, size.train, 0), ("test", tests, size.test, size.test_seed)):
        options = ["--n", str(count), "--seed", str(seed), "--region", size.region, "--width", str(size.width)]
        made = _phantoms(folder, kind, [DOMAINS[d] for d in domains], size.spacing, [*options, "--jobs", str(jobs)])
        for number, domain in enumerate(domains):
            target = folder / "tests" / domain if kind == "test" else folder / "nnUNet_raw" / dataset(sources, number)
            cases = _sort(made, DOMAINS[domain], target)
            if kind == "train":
                _describe(target, cases)
        shutil.rmtree(made)
    write_json(marker, wanted)


def _empty(folder: Path) -> None:
    """Remove what a run of other data left; refuse a folder that no run made."""
    own = [folder / name for name in (*_OWN, "nnUNet_preprocessed", "nnUNet_results")]
    if any(path.exists() for path in own) and not (folder / _MARKER).exists():
        sys.exit(f"{folder} holds data that no finished run of these benchmarks made; choose another --out")
    for path in own:
        shutil.rmtree(path, ignore_errors=True)
    (folder / "nnUNet_raw").mkdir(parents=True, exist_ok=True)
    # Ours from now on, also when the run is interrupted before its data are complete.
    write_json(folder / _MARKER, {})


@dataclass(frozen=True)
class Mixture:
    """Phantoms of several regions, protocols and scanners in one data set: `count` spines per region."""

    name: str
    count: int
    spacing: float
    width: float
    regions: tuple[str, ...]
    protocols: tuple[str, ...]
    scanners: tuple[str, ...]


def make_mixture(folder: Path, mixture: Mixture, jobs: int) -> None:
    """Make the nnU-Net raw data set of a mixture; once."""
    marker, wanted = folder / _MARKER, {"mixture": asdict(mixture)}
    if marker.exists() and read_json(marker) == json.loads(json.dumps(wanted)):
        return
    _empty(folder)
    target = folder / "nnUNet_raw" / dataset([mixture.name], 0)
    cases: list[str] = []
    for number, region in enumerate(mixture.regions):
        options = ["--n", str(mixture.count), "--seed", str(1000 * number), "--scanner", *mixture.scanners]
        made = _phantoms(folder, region, mixture.protocols, mixture.spacing, [*options, "--region", region,
                         "--width", str(mixture.width), "--jobs", str(jobs)])  # fmt: skip
        cases += [case for name in mixture.protocols for case in _sort(made, name, target, prefix=f"{region}_")]
        shutil.rmtree(made)
    _describe(target, cases)
    write_json(marker, wanted)


def _phantoms(folder: Path, name: str, protocols: Sequence[str], spacing: float, options: Sequence[str]) -> Path:
    """Make phantoms with all 14 labels; return their folder."""
    words = ["-q", "-o", str(folder), "-d", "900", "--name", f"All{name}", "--protocol", *protocols,
             "--spacing", *[str(spacing)] * 3]  # fmt: skip
    subprocess.run([command("nnUNetv2_spine_phantom"), *words, *options], check=True)
    return folder / f"Dataset900_All{name}"


def dataset(sources: Sequence[str], number: int) -> str:
    """Return the name of the data set of a source."""
    return f"Dataset{921 + number}_{sources[number]}"


def _sort(made: Path, protocol: str, target: Path, prefix: str = "") -> list[str]:
    """Move the scans of one protocol into a folder of their own, with the ids that are learned; return their names."""
    images, labels = target / "imagesTr", target / "labelsTr"
    for folder in (images, labels):
        folder.mkdir(parents=True, exist_ok=True)
    table = np.zeros(15, dtype=np.uint8)
    for number, ids in enumerate(STRUCTURES.values(), start=1):
        table[list(ids)] = number
    every = sorted(p.name.removesuffix(".nii.gz") for p in (made / "labelsTr").glob("*.nii.gz"))
    # Of a single protocol the names do not say which it is.
    cases = [name for name in every if name.endswith(f"_{protocol}")] or every
    for case in cases:
        shutil.move(made / "imagesTr" / f"{case}_0000.nii.gz", images / f"{prefix}{case}_0000.nii.gz")
        mask = read_volume(made / "labelsTr" / f"{case}.nii.gz")
        write_volume(Volume(table[mask.array], mask.affine), labels / f"{prefix}{case}.nii.gz")
    return [f"{prefix}{case}" for case in cases]


def _describe(target: Path, cases: Sequence[str]) -> None:
    """Write dataset.json and a split that validates with the last two cases."""
    write_json(
        target / "dataset.json",
        {
            "channel_names": {"0": "MRI"}, "labels": {"background": 0, **LABELS}, "numTraining": len(cases),
            "file_ending": ".nii.gz", "overwrite_image_reader_writer": "NibabelIOWithReorient",
        },
    )  # fmt: skip
    write_json(target / "splits.json", [{"train": list(cases[:-2]), "val": list(cases[-2:])}])


def phantom_cases(folder: Path, domain: str, images: Path | None = None) -> list[Case]:
    """Return the phantoms of a test set; `images`: other images of the same cases (corrupted ones)."""
    labels = sorted((folder / "tests" / domain / "labelsTr").glob("*.nii.gz"))
    images = images or folder / "tests" / domain / "imagesTr"
    structures = {name: ((number,), (number,)) for name, number in LABELS.items()}
    return [
        (p.name.removesuffix(".nii.gz"), [str(images / p.name.replace(".nii", "_0000.nii"))], str(p), structures)
        for p in labels
    ]


_CORD = {"cord": ((LABELS["cord"],), (1,))}
# The sample's masks name one vertebra and its neighbourhood; cord and canal are complete in the picture.
_TPTBOX = {"cord": ((LABELS["cord"],), (60,)), "canal": ((LABELS["canal"],), (61,))}


def real_cases(data: Path) -> dict[str, list[Case]]:
    """Return test sets of real volumes, by contrast: (name, images, mask, structures) of those that are there."""
    errsm, unf = data / "sct-errsm", data / "ivadomed-testing"
    anat, masks = unf / "sub-unf01" / "anat", unf / "derivatives" / "labels" / "sub-unf01" / "anat"
    cord: dict[str, list[tuple[str, Path, Path]]] = {
        "real T2w": [
            *((f"errsm_{n}", errsm / f"errsm_{n}/t2/t2.nii.gz", errsm / f"errsm_{n}/t2/t2_manual_segmentation.nii.gz")
              for n in ("11", "18", "23")),
            ("unf01", anat / "sub-unf01_T2w.nii.gz", masks / "sub-unf01_T2w_seg-manual.nii.gz"),
        ],
        "real T1w": [("unf01", anat / "sub-unf01_T1w.nii.gz", masks / "sub-unf01_T1w_seg-manual.nii.gz")],
        "real T2starw": [
            ("unf01", anat / "sub-unf01_T2star.nii.gz", masks / "sub-unf01_T2star_seg-manual.nii.gz"),
            ("errsm_18", errsm / "errsm_18/gre/gre.nii.gz", errsm / "errsm_18/gre/segmentation_binary.nii.gz"),
        ],
    }  # fmt: skip
    sets = {
        name: [(case, [str(i)], str(m), _CORD) for case, i, m in rows if i.exists() and m.exists()]
        for name, rows in cord.items()
    }
    image = sorted((data / "tptbox" / "sample_mri").glob("*.nii.gz"))
    mask = [p for p in image if "subreg" in p.name and p.name.endswith("msk.nii.gz")]
    image = [p for p in image if "msk" not in p.name]
    if image and mask:
        sets["real TPTBox"] = [("tptbox", [str(image[0])], str(mask[0]), _TPTBOX)]
    return {name: rows for name, rows in sets.items() if rows}


def corrupted_sets(folder: Path, domain: str, python: Path, config: Path) -> dict[str, list[Case]]:
    """Return test sets of a domain's images after each corruption of a file; made once, in torchio's environment."""
    out = folder / "corrupted" / domain
    _corrupt(folder / "tests" / domain / "imagesTr", out, python, config)
    return {f"{domain} {p.name}": phantom_cases(folder, domain, p) for p in sorted(out.iterdir()) if p.is_dir()}


def corrupted_images(folder: Path, case: str, image: Path, python: Path, config: Path) -> dict[str, Path]:
    """Return corrupted versions of one image, by corruption."""
    source, out = folder / "sources" / case, folder / "corrupted" / case
    source.mkdir(parents=True, exist_ok=True)
    shutil.copy(image, source / f"{case}_0000.nii.gz")
    _corrupt(source, out, python, config)
    return {p.name: p / f"{case}_0000.nii.gz" for p in sorted(out.iterdir()) if p.is_dir()}


def _corrupt(source: Path, out: Path, python: Path, config: Path) -> None:
    done = out / "corruptions.yaml"
    if done.exists() and done.read_text() == config.read_text():
        return
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    script = Path(__file__).with_name("corrupt.py")
    subprocess.run([str(python), str(script), str(config), str(source), str(out)], check=True)
    shutil.copy(config, done)


def environment(folder: Path) -> dict[str, str]:
    """Return the environment of nnU-Net's commands and of the trainings: one thread each, no worker processes."""
    from nnunet_spine_ext.core.threads import set_frugal_cpu

    values = dict(os.environ)
    for name in ("raw", "preprocessed", "results"):
        path = folder / f"nnUNet_{name}"
        path.mkdir(parents=True, exist_ok=True)
        values[f"nnUNet_{name}"] = str(path)
    values |= {"nnUNet_def_n_proc": "1", "nnUNet_compile": "f", "PYTHONUNBUFFERED": "1"}
    set_frugal_cpu(values)
    return values


def preprocess(folder: Path, sources: Sequence[str], preset: Path, plans: str, augment: dict[str, Any]) -> None:
    """Plan and preprocess all sources with nnU-Net, then write plans with the preset and our augmentation."""
    values = environment(folder)
    values.pop("nnUNet_n_proc_DA", None)
    settings = folder / "augment.json"
    write_json(settings, augment)
    for number in range(len(sources)):
        name = dataset(sources, number)
        target = folder / "nnUNet_preprocessed" / name
        identifier = str(921 + number)
        # Written last: without it an earlier run was interrupted.
        if not (target / "splits_final.json").exists():
            words = ["-d", identifier, "-c", "3d_fullres", "-np", "1", "-npfp", "1"]
            subprocess.run([command("nnUNetv2_plan_and_preprocess"), *words], check=True, env=values,
                           stdout=subprocess.DEVNULL)  # fmt: skip
            shutil.copy(folder / "nnUNet_raw" / name / "splits.json", target / "splits_final.json")
        words = ["-d", identifier, "--name", plans, "--preset", str(preset), "--overwrite", "-q",
                 "--set=train.splits=stock", f"--set=augment.config={settings}"]  # fmt: skip
        subprocess.run([command("nnUNetv2_spine_plan"), *words], check=True, env=values)
