"""Checkpoints load without running code; what would run code is refused by name."""

from __future__ import annotations

import logging
import os
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nnunet_spine_ext.core.checkpoint import load_checkpoint
from nnunet_spine_ext.core.errors import SetupError

torch = pytest.importorskip("torch")


def nnunet_like() -> dict[str, Any]:
    """Return what nnU-Net saves: weights, optimizer, numpy scalars of the logger, trainer arguments."""
    network = torch.nn.Conv3d(1, 2, 3)
    optimizer = torch.optim.SGD(network.parameters(), 0.01, momentum=0.99, nesterov=True)
    network(torch.zeros(1, 1, 3, 3, 3)).sum().backward()
    optimizer.step()
    return {
        "network_weights": OrderedDict(network.state_dict()),
        "optimizer_state": optimizer.state_dict(),
        "grad_scaler_state": None,
        "logging": {
            "mean_fg_dice": [np.float32(0.5), np.float64(0.25)],
            "ema_fg_dice": [np.float64(0.1)],
            "dice_per_class_or_region": [[np.float32(0.1), np.float32("nan")], [np.float16(1.0)]],
            "train_losses": [np.float32(-0.1)],
            "epoch_start_timestamps": [1.5e9],
            "lrs": [0.01],
        },
        "_best_ema": np.float64(0.7),
        "current_epoch": np.int64(3),
        "init_args": {"plans": {"a": [1, (2, 3)], "b": None}, "fold": 0, "configuration": "3d_fullres"},
        "trainer_name": "nnUNetTrainerSpine",
        "inference_allowed_mirroring_axes": (0, 1),
        "counts": np.arange(3),
        "flag": np.bool_(True),
    }


class Harmful:
    """A stand-in for foreign code: it leaves a file behind when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


class Foreign:
    """A class that no checkpoint needs."""


def refused(path: Path, **options: bool) -> SetupError:
    with pytest.raises(SetupError) as caught:
        load_checkpoint(path, **options)
    assert caught.value.file == str(path)
    assert caught.value.exit_code == 5
    return caught.value


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_nnunet_checkpoints_load(zipped: bool, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint_final.pth"
    written = nnunet_like()
    torch.save(written, path, _use_new_zipfile_serialization=zipped)
    loaded = load_checkpoint(path)
    assert loaded.keys() == written.keys()
    assert torch.equal(loaded["network_weights"]["weight"], written["network_weights"]["weight"])
    assert loaded["_best_ema"] == written["_best_ema"]
    assert type(loaded["_best_ema"]) is np.float64
    assert loaded["logging"]["mean_fg_dice"] == [0.5, 0.25]
    assert np.isnan(loaded["logging"]["dice_per_class_or_region"][0][1])
    assert loaded["init_args"] == written["init_args"]
    assert loaded["inference_allowed_mirroring_axes"] == (0, 1)
    assert np.array_equal(loaded["counts"], np.arange(3))
    assert bool(loaded["flag"]) is True


@pytest.mark.parametrize(
    "kind", ["float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"]
)
def test_numpy_scalars_of_every_type_load(kind: str, tmp_path: Path) -> None:
    value = np.dtype(kind).type(3)
    torch.save({"x": value, "a": np.full((2, 3), value)}, tmp_path / "a.pth")
    loaded = load_checkpoint(tmp_path / "a.pth")
    assert loaded["x"] == 3
    assert loaded["x"].dtype == np.dtype(kind)
    assert np.array_equal(loaded["a"], np.full((2, 3), value))


def test_scalars_written_with_numpy_1_load(tmp_path: Path) -> None:
    # numpy 1 names the same function under numpy.core; both names have the same length in the pickle stream.
    torch.save({"x": np.float64(0.5)}, tmp_path / "a.pth")
    with zipfile.ZipFile(tmp_path / "a.pth") as source, zipfile.ZipFile(tmp_path / "b.pth", "w") as target:
        for name in source.namelist():
            content = source.read(name)
            if name.endswith("data.pkl"):
                assert b"numpy._core.multiarray" in content
                content = content.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
            target.writestr(name, content)
    assert load_checkpoint(tmp_path / "b.pth")["x"] == 0.5


def test_loading_leaves_no_names_allowed_behind(tmp_path: Path) -> None:
    before = set(map(str, torch.serialization.get_safe_globals()))
    torch.save(nnunet_like(), tmp_path / "a.pth")
    load_checkpoint(tmp_path / "a.pth")
    assert set(map(str, torch.serialization.get_safe_globals())) == before


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_code_is_refused_by_name_and_does_not_run(zipped: bool, tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    path = tmp_path / "a.pth"
    torch.save({**nnunet_like(), "extra": Harmful(mark)}, path, _use_new_zipfile_serialization=zipped)
    error = refused(path)
    assert error.code == "E-MODEL-CODE"
    assert "mkdir" in error.found
    assert "--trust" in error.fix
    assert not mark.exists()


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_plain_pickles_are_held_to_the_same_rule(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    path.write_bytes(pickle.dumps({"x": Harmful(tmp_path / "ran")}))
    refused(path)
    assert not (tmp_path / "ran").exists()


def test_foreign_classes_are_refused_by_name(tmp_path: Path) -> None:
    torch.save({"x": Foreign()}, tmp_path / "a.pth")
    error = refused(tmp_path / "a.pth")
    assert error.code == "E-MODEL-CODE"
    assert "Foreign" in error.found


def test_trust_loads_them_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    messages: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("nnunet_spine_ext.core.checkpoint")
    torch.save({"x": Foreign()}, tmp_path / "a.pth")
    logger.addHandler(handler)
    try:
        assert isinstance(load_checkpoint(tmp_path / "a.pth", trust=True)["x"], Foreign)
    finally:
        logger.removeHandler(handler)
    assert len(messages) == 1
    assert "a.pth" in messages[0]
    # A class of a package that is not installed here.
    monkeypatch.delattr(f"{__name__}.Foreign")
    assert refused(tmp_path / "a.pth", trust=True).code == "E-MODEL-CHECKPOINT"


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("trust", [False, True])
def test_damaged_files_are_named(trust: bool, tmp_path: Path) -> None:
    torch.save(nnunet_like(), tmp_path / "whole.pth")
    whole = (tmp_path / "whole.pth").read_bytes()
    torch.save(nnunet_like(), tmp_path / "legacy.pth", _use_new_zipfile_serialization=False)
    legacy = (tmp_path / "legacy.pth").read_bytes()
    path = tmp_path / "a.pth"
    cuts = [whole[:n] for n in (0, 100, len(whole) // 2, len(whole) - 10)]
    cuts += [legacy[:n] for n in range(1, len(legacy), 97)]
    for content in (*cuts, b"text\n" * 50, b"\x80\x02}q\x00."):
        path.write_bytes(content)
        assert refused(path, trust=trust).code in ("E-MODEL-CHECKPOINT", "E-MODEL-CODE")


def test_missing_files_and_folders(tmp_path: Path) -> None:
    assert "-chk" in refused(tmp_path / "none.pth").fix
    assert refused(tmp_path).code == "E-MODEL-CHECKPOINT"


@pytest.mark.parametrize("content", [[1, 2], 3, "text", None])
def test_what_is_no_dictionary_is_refused(content: object, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "a.pth")
    error = refused(tmp_path / "a.pth")
    assert error.found == f"a {type(content).__name__}"


def test_tensors_come_to_the_cpu(tmp_path: Path) -> None:
    torch.save({"x": torch.ones(2)}, tmp_path / "a.pth")
    assert load_checkpoint(tmp_path / "a.pth")["x"].device.type == "cpu"
