"""From a wheel, with no checkout in reach: convert, plan, predict with stock nnU-Net and with our command."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from installations import Installation, contents, install, nnunet_folder, trainer_folder
from model_builder import make_image, make_model

from nnunet_spine_ext.core.io import read_json, read_volume, write_volume

pytestmark = pytest.mark.slow

MODEL = "nnUNetTrainerSpine__spineTiny__3d_fullres"
# The stock commands of the borrowed nnU-Net would run in the environment they were installed in: here they are called
# by the fresh interpreter.
STOCK = {
    "plan": "from nnunetv2.experiment_planning.plan_and_preprocess_entrypoints import plan_and_preprocess_entry as run",
    "predict": "from nnunetv2.inference.predict_from_raw_data import predict_entry_point as run",
}


class World:
    """A fresh environment with the wheel, nnU-Net's folders, and the variables that `nnUNetv2_spine_env` sets."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.fresh: Installation = install("wheel", folder / "environment")
        shutil.rmtree(self.fresh.checkout)
        self.variables = {name: str(folder / name) for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")}
        for place in self.variables.values():
            Path(place).mkdir()
        self.variables["nnUNet_extTrainer"] = trainer_folder(self.fresh, folder, "nnUNetv2_spine_env")

    def run(self, *command: object) -> str:
        return self.fresh.run(*map(str, command), cwd=self.folder, **self.variables)

    def stock(self, name: str, *arguments: object) -> str:
        return self.run(self.fresh.python, "-c", f"{STOCK[name]}; run()", *arguments)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    world = World(tmp_path_factory.mktemp("wheel"))
    for number in range(3):
        source = world.folder / "data" / f"sub-{number:02d}"
        image = make_image(source / "t2.nii.gz", seed=number)
        write_volume(image.with_array((image.array > 500).astype(np.uint8)), source / "cord.nii.gz")
    return world


def test_the_whole_way_from_a_wheel(world: World) -> None:
    before = contents(nnunet_folder())
    assert Path(world.variables["nnUNet_extTrainer"]).is_relative_to(world.fresh.folder)
    world.run(
        "nnUNetv2_spine_convert", "pairs", "977", "--name", "Toy", "--images", "data/*/t2.nii.gz",
        "--labels", "data/*/cord.nii.gz", "--label-map", "cord=1", "--contrast", "T2w", "--folds", "3",
    )  # fmt: skip
    raw, preprocessed, results = (Path(world.variables[f"nnUNet_{n}"]) for n in ("raw", "preprocessed", "results"))
    assert len(list((raw / "Dataset977_Toy" / "imagesTr").glob("*.nii.gz"))) == 3
    world.stock("plan", "-d", "977", "-c", "3d_fullres", "-npfp", "1", "--no_pp")
    plans = preprocessed / "Dataset977_Toy"
    world.run("nnUNetv2_spine_plan", "-d", "977", "--name", "spineTiny", "--preset", "cpu")
    assert read_json(plans / "spineTiny.json")["spine_ext"]["preset"] == "cpu"

    # A tiny model of random weights stands in for a training.
    make_model(results / "Dataset977_Toy" / MODEL, name="spineTiny")
    common = ("-d", "977", "-p", "spineTiny", "-c", "3d_fullres", "-f", "0", "-device", "cpu")
    images = raw / "Dataset977_Toy" / "imagesTr"
    printed = world.stock(
        "predict", "-i", images, "-o", "stock", "-tr", "nnUNetTrainerSpine", "-npp", "0", "-nps", "0", *common
    )
    assert "Traceback" not in printed
    answer = world.run("nnUNetv2_spine_predict", "-i", images, "-o", "ours", "--accumulate", "half", "--json", *common)
    assert json.loads(answer)["failed"] == {}
    for number in range(3):
        name = f"sub-{number:02d}.nii.gz"
        stock, ours = (read_volume(world.folder / folder / name) for folder in ("stock", "ours"))
        assert np.array_equal(stock.array, ours.array)
        assert len(np.unique(stock.array)) > 1
    assert contents(nnunet_folder()) == before


def test_nothing_of_this_checkout_is_imported(world: World) -> None:
    script = "import sys, nnunet_spine_ext.inference.predictor; print(*sorted({m.__file__ for m in sys.modules.values()"
    script += " if 'nnunet_spine_ext' in m.__name__ and getattr(m, '__file__', None)}), sep='\\n')"
    files = [Path(line) for line in world.run(world.fresh.python, "-c", script).splitlines()]
    assert len(files) > 10
    assert all(file.is_relative_to(world.fresh.folder) for file in files)
    assert Path(sys.prefix) != world.fresh.folder
