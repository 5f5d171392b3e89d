"""What `nnUNetv2_spine_augment` says of its options before it loads PyTorch: a typing error is answered at once."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from nnunet_spine_ext.augment.transform import find, registry
from nnunet_spine_ext.core.errors import UsageError
from nnunet_spine_ext.training import augment_options
from nnunet_spine_ext.training.augment_options import check_choice

# Runs commands one after another in one process; PyTorch must not have been loaded by any.
_RUN = """
import json, sys
from nnunet_spine_ext.cli.augment import main
codes = [main(argv) for argv in json.loads(sys.argv[1])]
print(json.dumps([codes, "torch" in sys.modules]))
"""
WRONG = (
    (["-i", "gone.nii.gz", "-o", "o.png"], "E-IN-MISSING"),
    (["-i", "i.nii.gz", "-seg", "gone.nii.gz", "-o", "o.png"], "gone.nii.gz"),
    (["-i", "i.nii.gz", "-o", "o.jpg"], "a name ending in .png"),
    (["-i", "i.nii.gz", "-o", "o.png", "--config", "shiftt"], "shift"),
    (["-i", "i.nii.gz", "-o", "o.png", "--transform", "gama"], "gamma"),
    (["-i", "i.nii.gz", "-o", "o.png", "--profile", "ge-1.4t"], "ge-1.5t"),
    (["-i", "i.nii.gz", "-o", "o.png", "--profile", "ge-1.5t:nois=2"], "noise"),
    (["-i", "i.nii.gz", "-o", "o.png", "--set", "jitter"], "key=value"),
    (["-i", "i.nii.gz", "-o", "o.png", "--scheme", "spinep"], "spineps"),
    (["-i", "i.nii.gz", "-o", "o.png", "--strength", "9"], "0 to 5"),
    (["-i", "i.nii.gz", "-o", "o.png", "--epoch", "-1"], "0 or more"),
    (["-i", "i.nii.gz", "-o", "o.png", "--n", "0"], "1 to 400"),
    (["-i", "i.nii.gz", "-o", "o.png", "--plane", "sagitttal"], "sagittal"),
    (["-i", "i.nii.gz", "-o", "o.png", "--config", "shift", "--transform", "gamma"], "more than one augmentation"),
    (["-i", "i.nii.gz", "-o", "o.png", "--replay", "gone.json"], "gone.json"),
    (["--import", "gone.json"], "gone.json"),
)


def test_wrong_options_are_refused_before_pytorch_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "i.nii.gz").write_bytes(b"")
    commands = json.dumps([argv for argv, _ in WRONG])
    done = subprocess.run(
        [sys.executable, "-c", _RUN, commands], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    codes, loaded = json.loads(done.stdout.splitlines()[-1])
    assert not loaded
    assert all(codes)
    said = done.stderr.split("nnUNetv2_spine_augment: ")[1:]
    assert len(said) == len(WRONG)
    for (_, expected), text in zip(WRONG, said, strict=True):
        assert expected in text
    assert [path.name for path in tmp_path.iterdir()] == ["i.nii.gz"]


def test_every_transform_is_in_a_file_of_its_name() -> None:
    files = {path.stem for path in augment_options._TRANSFORMS.glob("*.py")} - {"__init__"}
    assert files == set(registry())


def test_both_checks_of_a_transforms_name_say_the_same() -> None:
    with pytest.raises(UsageError) as early:
        check_choice(None, (), "gama", (), 1.0, None)
    with pytest.raises(UsageError) as late:
        find("gama", where="--transform")
    assert str(early.value) == str(late.value)
