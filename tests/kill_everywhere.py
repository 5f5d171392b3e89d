"""Kill a conversion right before each of its steps on the disk, resume it, and compare with one that was not killed.

Run as ``python kill_everywhere.py SCENARIO FOLDER [SEED]``; prints how many points were tried, exits with 1 and a line
per point where something is wrong. With a seed, runs are killed at random steps, again and again, until one ends.
A step is a file opened for writing, a rename, a removal, a new folder; children are forked, so each costs little.
"""

from __future__ import annotations

import hashlib
import os
import random
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from nnunet_spine_ext.core.errors import UsageError
from nnunet_spine_ext.dataset_conversion.pairs import pairs

AFFINE = np.diag([1.0, 2.0, 3.0, 1.0])
NAME = "Dataset501_Toy"
_STEPS = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate", "os.link", "shutil.rmtree"}
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT


def main() -> int:
    scenario, folder = sys.argv[1], Path(sys.argv[2]).resolve()
    os.environ["TQDM_DISABLE"] = "1"
    _sources(folder / "in")
    expected = _uninterrupted(scenario, folder / "expected")
    if len(sys.argv) > 3:
        wrong = _again_and_again(scenario, folder / "random", expected, random.Random(int(sys.argv[3])))
        print("random kills")
    else:
        points, wrong = 0, []
        while True:
            points += 1
            found = _killed_once(scenario, folder / f"at-{points}", expected, points)
            if found is None:
                break
            wrong += [f"killed before step {points}: {text}" for text in found]
        print(points - 1, "points")
    for line in wrong:
        print(line)
    return 1 if wrong else 0


def _sources(folder: Path) -> None:
    folder.mkdir(parents=True)
    for k, name in enumerate(("anna", "bert", "cleo")):
        image = np.random.default_rng(k).integers(0, 900, (5, 6, 7)).astype(np.int16)
        nib.save(nib.Nifti1Image(image, AFFINE), folder / f"{name}_t2.nii.gz")
        if name != "cleo":
            mask = np.zeros((5, 6, 7), np.uint8)
            mask[1:3, 2:4, 2:5] = 7 if name == "anna" else 3
            nib.save(nib.Nifti1Image(mask, AFFINE), folder / f"{name}_seg.nii.gz")


def _convert(scenario: str, root: Path, *, resume: bool) -> None:
    source = root.parent / "in"
    options: dict[str, Any] = {
        "images": [f"{source}/{{subject}}_t2.nii.gz"],
        "labels": [f"{source}/{{subject}}_seg.nii.gz"],
        "label_map": ["cord=3", "canal=7"],
        "raw": root / "raw",
        "preprocessed": root / "pre",
    }
    if scenario == "unmapped":
        options |= {"label_map": None, "unlabelled": [f"{source}/{{subject}}_t2.nii.gz"]}
    if scenario == "overwrite":
        options["overwrite"] = True
    pairs(501, name="Toy", resume=resume, **options)


def _prepare(scenario: str, root: Path) -> None:
    """Put the dataset there that is going to be replaced."""
    root.mkdir(parents=True)
    if scenario == "overwrite":
        source = root.parent / "in"
        pairs(
            501, name="Toy", images=[f"{source}/{{subject}}_seg.nii.gz"], labels=[f"{source}/{{subject}}_seg.nii.gz"],
            raw=root / "raw", preprocessed=root / "pre",
        )  # fmt: skip


def _uninterrupted(scenario: str, root: Path) -> dict[str, str]:
    _in_child(lambda: (_prepare(scenario, root), _convert(scenario, root, resume=False)), 0)
    return _tree(root)


def _killed_once(scenario: str, root: Path, expected: dict[str, str], step: int) -> list[str] | None:
    """Kill before a step and resume; what is wrong then. None: the run ended before that step."""
    _in_child(lambda: _prepare(scenario, root), 0)
    before = _tree(root)
    if _in_child(lambda: _convert(scenario, root, resume=False), step) == 0:
        return None
    return _look(root, before, expected) + _finish(scenario, root, expected)


def _again_and_again(scenario: str, root: Path, expected: dict[str, str], rng: random.Random) -> list[str]:
    _in_child(lambda: _prepare(scenario, root), 0)
    before = _tree(root)
    wrong = []
    for _ in range(40):
        status = _in_child(lambda: _convert(scenario, root, resume=True), rng.randint(3, 50))
        if status == 0:
            break
        wrong += _look(root, before, expected)
        if not (root / "raw" / f".{NAME}.partial").exists() and _dataset(_tree(root)) == _dataset(expected):
            break
    return wrong + _finish(scenario, root, expected)


def _look(root: Path, before: dict[str, str], expected: dict[str, str]) -> list[str]:
    """Under the final name is nothing, or all of the old dataset, or all of the new one."""
    now = _dataset(_tree(root))
    return [] if now in ({}, _dataset(before), _dataset(expected)) else [f"half a dataset: {sorted(now)}"]


def _finish(scenario: str, root: Path, expected: dict[str, str]) -> list[str]:
    def resume() -> None:
        try:
            _convert(scenario, root, resume=True)
        except UsageError as error:
            # All was done; only what had been thrown away was not yet removed.
            if error.code != "E-DATASET-EXISTS" or (root / "raw" / f".{NAME}.partial").exists():
                raise

    if _in_child(resume, 0) != 0:
        return ["cannot be resumed"]
    left = [p.name for p in (root / "raw").iterdir() if p.name.startswith(f".{NAME}.partial")]
    found = _tree(root)
    differing = sorted(key for key in found.keys() | expected.keys() if found.get(key) != expected.get(key))
    return [f"left behind: {left}"] * bool(left) + [f"differs in {differing}"] * bool(differing)


def _in_child(work: Callable[[], Any], step: int) -> int:
    """Do something in a forked process that kills itself before a step (0: never); return its exit status."""
    sys.stdout.flush()
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1]
    if step:
        _kill_before(step)
    try:
        work()
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def _kill_before(step: int) -> None:
    count = 0

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal count
        writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & _WRITES
        if writes or event in _STEPS:
            count += 1
            if count == step:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def _tree(root: Path) -> dict[str, str]:
    """Digest of every file that is not hidden."""
    files = (path for path in sorted(root.rglob("*")) if path.is_file())
    names = {path: str(path.relative_to(root)) for path in files}
    return {
        name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path, name in names.items()
        if not any(part.startswith(".") for part in Path(name).parts)
    }


def _dataset(tree: dict[str, str]) -> dict[str, str]:
    return {name: digest for name, digest in tree.items() if name.startswith(f"raw/{NAME}/")}


if __name__ == "__main__":
    sys.exit(main())
