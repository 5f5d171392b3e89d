"""Instance models: writing, reading, importing SPINEPS' checkpoints, and what is refused."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from spineps_checkpoint import forward, random_state, write

from nnunet_spine_ext.cli.import_instances import main
from nnunet_spine_ext.core.errors import SetupError, UsageError
from nnunet_spine_ext.instances.cutout_inference import InferenceOptions
from nnunet_spine_ext.instances.cutouts import Cutout, CutoutSpec, ModelGrid
from nnunet_spine_ext.instances.encoding import encode
from nnunet_spine_ext.instances.model import (
    InstanceModel,
    NetworkShape,
    load_instance_model,
    read_instance_model,
    write_instance_model,
)
from nnunet_spine_ext.instances.spineps import import_spineps

SMALL = CutoutSpec(size=(16, 24, 8))
TINY = NetworkShape(4, (1, 2))
CPU = InferenceOptions(device="cpu")


def tiny_weights(seed: int = 0, spec: CutoutSpec = SMALL, shape: NetworkShape = TINY) -> Any:
    torch.manual_seed(seed)
    return shape.build(spec).state_dict()


def grid_of(labels: np.ndarray) -> ModelGrid:
    steps = tuple(np.arange(n) for n in labels.shape)
    return ModelGrid(labels, (1.0, 1.0, 1.0), steps, steps)  # type: ignore[arg-type]


def random_labels(shape: tuple[int, int, int], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 15, shape).astype(np.uint8)


def test_a_model_comes_back_as_it_was_written(tmp_path: Path) -> None:
    weights = {0: tiny_weights(0), 2: tiny_weights(2)}
    written = write_instance_model(tmp_path / "m", SMALL, TINY, weights, {"made by": "test"})
    assert read_instance_model(tmp_path / "m") == written
    assert written == InstanceModel(1, SMALL, TINY, (0, 2), {"made by": "test"})
    names = sorted(p.name for p in (tmp_path / "m").iterdir())
    assert names == ["fold_0.safetensors", "fold_2.safetensors", "instance_model.json"]
    loaded = load_instance_model(tmp_path / "m", CPU, folds=[2])
    for name, value in loaded._networks[0].state_dict().items():
        torch.testing.assert_close(value, weights[2][name], rtol=0, atol=0)


def test_equal_models_are_equal_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_instance_model(tmp_path / name, SMALL, TINY, {0: tiny_weights()})
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()


def test_folds_are_added_to_a_model_and_another_model_is_refused(tmp_path: Path) -> None:
    write_instance_model(tmp_path, SMALL, TINY, {1: tiny_weights(1)}, {"made by": "test"})
    assert write_instance_model(tmp_path, SMALL, TINY, {0: tiny_weights()}).folds == (0, 1)
    assert read_instance_model(tmp_path).provenance == {"made by": "test"}
    other = CutoutSpec(size=(16, 24, 16))
    with pytest.raises(SetupError, match="E-MODEL-INSTANCE"):
        write_instance_model(tmp_path, other, TINY, {0: tiny_weights(spec=other)})


def test_folds_are_averaged(tmp_path: Path) -> None:
    states = [tiny_weights(seed) for seed in (1, 2)]
    write_instance_model(tmp_path, SMALL, TINY, dict(enumerate(states)))
    grid = grid_of(random_labels(SMALL.size))
    cutout = Cutout(0, (0, 0, 0), SMALL.size)
    both = load_instance_model(tmp_path, InferenceOptions(device="cpu", soft=True))
    answer = both.predict(grid, [cutout])[0]
    single = [load_instance_model(tmp_path, InferenceOptions("cpu", soft=True), folds=[k]) for k in (0, 1)]
    parts = [one.predict(grid, [cutout])[0].probabilities for one in single]
    assert answer.probabilities is not None
    np.testing.assert_allclose(answer.probabilities, np.mean(parts, axis=0, dtype=np.float32), atol=2e-3)


def break_json(folder: Path, **changes: Any) -> None:
    path = folder / "instance_model.json"
    content = json.loads(path.read_text())
    for key, value in changes.items():
        target = content
        *parents, last = key.split("__")
        for parent in parents:
            target = target[parent]
        target[last] = value
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"format_version": 9}, "E-MODEL-INSTANCE"),
        ({"cutout__encoding": "rainbow"}, "E-INST-ENCODING"),
        ({"cutout__encoding": "scalar"}, "E-MODEL-INSTANCE"),
        ({"cutout__spacing": [0.75, 0.75, 0.0]}, "E-INST-SPEC"),
        ({"cutout__size": [16, 24, 9]}, "E-INST-SPEC"),
        ({"network__width": 16}, "E-MODEL-INSTANCE"),
        ({"network__multipliers": [1, 2, 4, 8, 16]}, "E-INST-SPEC"),
        ({"folds": []}, "E-MODEL-INSTANCE"),
        ({"folds": [0, 1]}, "E-MODEL-INSTANCE"),
        ({"colour": "red"}, "E-CONFIG-KEY"),
    ],
)
def test_a_folder_that_does_not_fit_together_is_refused(tmp_path: Path, changes: dict[str, Any], code: str) -> None:
    write_instance_model(tmp_path, SMALL, TINY, {0: tiny_weights()})
    break_json(tmp_path, **changes)
    with pytest.raises(SetupError) as caught:
        load_instance_model(tmp_path, CPU)
    assert (caught.value.code, caught.value.exit_code) == (code, 5)
    assert str(tmp_path) in caught.value.file
    assert caught.value.fix


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("numbering_model.json", "a numbering model, without instance_model.json"),
        ("plans.json", "a model of nnU-Net for segmentation, without"),
        ("checkpoint_final.pth", "one fold of a model of nnU-Net"),
        ("sagittal_weights.ckpt", "a checkpoint of SPINEPS, not imported"),
        ("notes.txt", "a folder without instance_model.json"),
    ],
)
def test_another_folder_is_called_what_it_is(tmp_path: Path, name: str, what: str) -> None:
    (tmp_path / name).write_text("{}")
    with pytest.raises(SetupError) as caught:
        load_instance_model(tmp_path, CPU)
    assert caught.value.found.startswith(what)
    with pytest.raises(SetupError, match="a file, no folder"):
        load_instance_model(tmp_path / name, CPU)


def test_missing_and_damaged_files_are_refused(tmp_path: Path) -> None:
    for folder in (tmp_path / "none", tmp_path):
        with pytest.raises(SetupError, match="E-MODEL-INSTANCE"):
            load_instance_model(folder, CPU)
    write_instance_model(tmp_path, SMALL, TINY, {0: tiny_weights()})
    with pytest.raises(SetupError, match="no fold 3"):
        load_instance_model(tmp_path, CPU, folds=[3])
    weights = tmp_path / "fold_0.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(SetupError, match="cannot be read"):
        load_instance_model(tmp_path, CPU)
    (tmp_path / "instance_model.json").write_text("{")
    with pytest.raises(SetupError, match="E-MODEL-INSTANCE"):
        load_instance_model(tmp_path, CPU)


def test_weights_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    state = tiny_weights()
    state["head.bias"][0] = float("nan")
    with pytest.raises(UsageError, match="no numbers"):
        write_instance_model(tmp_path, SMALL, TINY, {0: state})


@pytest.mark.parametrize(("channels", "width", "encoding"), [(11, 8, "onehot"), (10, 16, "onehot10"), (1, 8, "scalar")])
def test_a_spineps_checkpoint_answers_as_its_own_architecture(
    tmp_path: Path, channels: int, width: int, encoding: str
) -> None:
    state = random_state(channels, width)
    model = import_spineps(write(tmp_path / "x_weights.ckpt", state), tmp_path / "model").model
    assert (model.cutout, model.network) == (CutoutSpec(encoding=encoding), NetworkShape(width))
    network = load_instance_model(tmp_path / "model", CPU)._networks[0]
    labels = random_labels((16, 24, 8))
    x = torch.from_numpy(encode(labels, encoding)[None])
    with torch.inference_mode():
        expected, found = forward(state, x), network(x)
    assert float(expected.abs().max()) > 0.1
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_the_configuration_beside_a_checkpoint_is_used(tmp_path: Path) -> None:
    folder = tmp_path / "spineps" / "inner"
    folder.mkdir(parents=True)
    write(folder / "instance_weights.ckpt", random_state())
    config = {
        "model_expected_orientation": ["P", "I", "R"],
        "resolution_range": [[0.5, 0.75, 1.0], [0.7, 1.0, 3.0]],
        "cutout_size": [128, 160, 32],
        "mapping": {str(k): k - 40 for k in range(41, 50)} | {"50": 9, "26": 0},
    }
    (folder / "inference_config.json").write_text(json.dumps(config))
    model = import_spineps(tmp_path / "spineps", tmp_path / "model").model
    assert model.cutout == CutoutSpec((128, 160, 32), (0.7, 0.75, 1.65))
    for key, value, code in (
        ("mapping", {"41": 9, "49": 1}, "E-INST-ENCODING"),
        ("mapping", [1, 2], "E-INST-SPEC"),
        ("model_expected_orientation", "RAS", "E-INST-SPEC"),
        ("resolution_range", [0.75, 0.75], "E-INST-SPEC"),
        ("resolution_range", [0.75, 0.75, -1.0], "E-INST-SPEC"),
        ("cutout_size", [100, 100, 100], "E-INST-SPEC"),
    ):
        (folder / "inference_config.json").write_text(json.dumps(config | {key: value}))
        with pytest.raises(UsageError) as caught:
            import_spineps(tmp_path / "spineps", tmp_path / "other")
        assert caught.value.code == code
    (folder / "inference_config.json").write_text("no json")
    with pytest.raises(UsageError, match="E-INST-SPEC"):
        import_spineps(tmp_path / "spineps", tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_the_command_imports_a_checkpoint_and_names_what_is_wrong(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "x_weights.ckpt", random_state())
    assert main(["-i", str(path), "-o", str(tmp_path / "model"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["cutout"]["encoding"], told["folds"]) == ("onehot", [0])
    assert main(["-i", str(path), "-o", str(tmp_path / "again")]) == 0
    assert "248x304x64 voxels, 0.75x0.75x1.65 mm" in capsys.readouterr().out
    assert main(["-i", str(tmp_path / "none.ckpt"), "-o", str(tmp_path / "other")]) == 5
    assert "E-MODEL-CHECKPOINT" in capsys.readouterr().err


def test_a_folder_that_has_a_model_is_not_mixed_with_an_imported_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of the same cutouts and size, or not: a fold that was trained would be averaged with SPINEPS' network."""
    path = write(tmp_path / "x_weights.ckpt", random_state())
    write_instance_model(
        tmp_path / "same", CutoutSpec(), NetworkShape(), {1: NetworkShape().build(CutoutSpec()).state_dict()}
    )
    write_instance_model(tmp_path / "other", SMALL, TINY, {0: tiny_weights()})
    for name in ("same", "other"):
        before = {file.name: file.read_bytes() for file in (tmp_path / name).iterdir()}
        assert main(["-i", str(path), "-o", str(tmp_path / name)]) == 5
        told = capsys.readouterr().err
        assert "E-MODEL-INSTANCE" in told
        assert "another folder (-o)" in told
        assert {file.name: file.read_bytes() for file in (tmp_path / name).iterdir()} == before


class Exploit:
    """Pickles to a call."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("exploited",)


def test_wrong_checkpoints_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    def code_of(path: Path) -> str:
        with pytest.raises((SetupError, UsageError)) as caught:
            import_spineps(path, tmp_path / "out")
        # What the command does not have is no remedy.
        assert not [word for word in ("-f,", "-chk", "--trust", "checkpoint_latest") if word in caught.value.fix]
        assert not {"fold", "nnU-Net"} & set(str(caught.value).split())
        return caught.value.code

    assert code_of(tmp_path / "missing.ckpt") == "E-MODEL-CHECKPOINT"
    assert code_of(tmp_path) == "E-MODEL-CHECKPOINT"
    (tmp_path / "text.ckpt").write_text("not a checkpoint")
    assert code_of(tmp_path / "text.ckpt") == "E-MODEL-CHECKPOINT"
    whole = write(tmp_path / "cut.ckpt", random_state()).read_bytes()
    (tmp_path / "cut.ckpt").write_bytes(whole[: len(whole) // 2])
    assert code_of(tmp_path / "cut.ckpt") == "E-MODEL-CHECKPOINT"
    torch.save([1], tmp_path / "list.ckpt")
    assert code_of(tmp_path / "list.ckpt") == "E-MODEL-CHECKPOINT"
    assert code_of(write(tmp_path / "code.ckpt", random_state(), more=Exploit())) == "E-MODEL-CODE"
    assert not Path("exploited").exists()
    assert code_of(write(tmp_path / "four.ckpt", random_state(channels=4))) == "E-INST-ENCODING"
    lacking = random_state()
    del lacking["mid_block2.block1.norm.bias"]
    assert code_of(write(tmp_path / "lacking.ckpt", lacking)) == "E-MODEL-ARCHITECTURE"
    other = {"encoder.stages.0.conv.weight": torch.zeros(32, 1, 3, 3, 3)}
    assert code_of(write(tmp_path / "nnunet.ckpt", other, prefix="")) == "E-MODEL-ARCHITECTURE"
    torch.save({"state_dict": {"a": 1}}, tmp_path / "number.ckpt")
    assert code_of(tmp_path / "number.ckpt") == "E-MODEL-ARCHITECTURE"
    assert not (tmp_path / "out" / "instance_model.json").exists()
