"""Post-processing through the installed commands: phantoms in, levels out; and an interrupt from outside."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from spine_builder import Spine, build

from nnunet_spine_ext.core.io import read_json, read_volume, sha256, write_volume
from nnunet_spine_ext.inference.journal import Journal


def command(name: str) -> str:
    """Return the path of an installed command."""
    return str(Path(sys.executable).with_name(f"nnUNetv2_spine_{name}"))


def call(name: str, *words: object) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    arguments = [command(name), *map(str, words)]
    return subprocess.run(arguments, capture_output=True, text=True, timeout=600, check=False)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_phantoms_get_their_levels(tmp_path: Path) -> None:
    made = call(
        "phantom", "-o", tmp_path, "--n", 2, "--spacing", 2, 2, 4, "--seed", 3, "--anomalies", "none", "--name", "Ph"
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    [raw] = tmp_path.glob("Dataset*_Ph")
    out = tmp_path / "out"
    done = call(
        "postprocess", "-i", raw / "labelsTr", "-o", out, "--scheme", "nnunet14", "--images", raw / "imagesTr",
        "--numbering", "--snapshots", "--bids", "--report", "--jobs", 2,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    cases = [f.name.removesuffix(".nii.gz") for f in sorted((raw / "labelsTr").glob("*.nii.gz"))]
    assert list(Journal(out).read()) == cases
    for case in cases:
        assert read_json(out / "qc" / f"{case}.json")["numbered"] is True
        found, truth = (read_volume(f / f"{case}.nii.gz").array for f in (out / "instances", raw / "instancesTr"))
        # Vertebrae with their levels, discs and endplates: every one is found, under its own id.
        for instance in set(np.unique(truth).tolist()) - {0}:
            both = ((found == instance) & (truth == instance)).sum()
            assert both / ((found == instance) | (truth == instance)).sum() > 0.5, f"{case}: {instance}"
        assert (out / "snapshots" / f"{case}.png").is_file()
        assert len(list((out / "derivatives_seg" / f"sub-{case}" / "anat").iterdir())) == 4
    # Levels reach whoever asks for them.
    area = call(
        "csa", "-i", out, "-o", tmp_path / "area.csv", "--label", 11, "--instances", out / "instances", "--perlevel"
    )  # fmt: skip
    assert area.returncode == 0, area.stderr
    rows = (tmp_path / "area.csv").read_text()
    assert all(f",{name}," in rows for name in ("C3", "C7", "T1", "T10"))


def test_an_interrupt_of_several_processes_leaves_nothing_half_written(tmp_path: Path) -> None:
    mask, _ = build(Spine(levels=("L2", "L3", "L4", "L5"), spacing=(3.0, 1.0, 1.0)))
    for number in range(10):
        write_volume(mask, tmp_path / "masks" / f"case{number:02d}.nii.gz")
    out = tmp_path / "out"
    words = ["-i", str(tmp_path / "masks"), "-o", str(out), "--scheme", "nnunet14", "--jobs", "2", "--bids"]
    process = subprocess.Popen(
        [command("postprocess"), *words],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    limit = time.monotonic() + 120
    while process.poll() is None and len(list(out.glob("case*.nii.gz"))) < 3 and time.monotonic() < limit:
        time.sleep(0.02)
    # As a terminal does: the whole group hears of it.
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors, errors
    whole = {f.name.removesuffix(".nii.gz") for f in out.glob("case*.nii.gz")}
    assert 3 <= len(whole) < 10
    for file in (f for f in out.rglob("*case[01]*") if f.is_file()):
        assert not file.name.startswith("."), file
        assert any(name in str(file.relative_to(out)) for name in whole), file
    assert not list(out.glob(".*"))
    again = call("postprocess", *words, "--resume")
    assert again.returncode == 0, again.stderr
    assert len({sha256(f) for f in (out / "instances").glob("case*.nii.gz")}) == 1
    assert len(list(out.glob("case*.nii.gz"))) == 10


_SLOW = """
import sys, time
from pathlib import Path
from nnunet_spine_ext.inference import phases, postprocess
from nnunet_spine_ext.inference.phase_options import PhaseOptions

def wait(*_):
    print("writing", flush=True)
    time.sleep(60)

phases.write_json = wait
masks, out = map(Path, sys.argv[1:])
options = PhaseOptions(instances=True, bids=True)
run = postprocess._prepare(
    masks, out, "nnunet14", options, {"images": None}, "cpu", 2, resume=False, strict=False, prefer=None
)
postprocess._do("case", run.job)
"""


def test_a_process_that_is_told_to_end_takes_away_what_it_has_half_written(tmp_path: Path) -> None:
    mask, _ = build(Spine(levels=("L3", "L4"), spacing=(4.0, 2.0, 2.0)))
    write_volume(mask, tmp_path / "masks" / "case.nii.gz")
    out = tmp_path / "out"
    words = [sys.executable, "-c", _SLOW, str(tmp_path / "masks"), str(out)]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "writing\n"
    assert (out / "instances" / "case.nii.gz").is_file()
    process.terminate()
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (1, "")
    assert not [f for f in out.rglob("*") if f.is_file()]
