"""`nnUNetv2_spine_harmonize train`: from raw datasets to the folder of a model."""

from __future__ import annotations

import csv
import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from slice_cohort import dataset

from nnunet_spine_ext.cli.harmonize import main
from nnunet_spine_ext.core.errors import SetupError, SpineExtError, UsageError
from nnunet_spine_ext.harmonize.cyclegan.training import CycleGanTraining
from nnunet_spine_ext.harmonize.harmonizer import load_harmonizer, read_harmonizer
from nnunet_spine_ext.harmonize.segmenter import SegmenterModel, write_segmenter
from nnunet_spine_ext.harmonize.slice_grid import SliceSettings
from nnunet_spine_ext.networks.slice_unet import SliceNetworkShape
from nnunet_spine_ext.training.harmonize import train

SLICES = ("slices.size=[32,32]",)
SMALL = (*SLICES, "radiomics.roi=[32,16]", "batch_size=2", "slices_per_epoch=4", "epochs=1")


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a dataset of three vendors with three subjects each, one vendor without masks."""
    rows: list[dict[str, Any]] = []
    for vendor in ("Siemens", "GE", "Philips"):
        rows += [{"case": f"{vendor}_{k}", "manufacturer": vendor} for k in range(3)]
    rows[-1]["mask"] = None
    return dataset(tmp_path_factory.mktemp("raw"), rows, ignore=True)


@pytest.fixture(scope="module")
def discs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a segmenter that has learned nothing."""
    folder = tmp_path_factory.mktemp("segmenter")
    shape = SliceNetworkShape(features=(4, 8), convolutions=1)
    torch.manual_seed(0)
    model = SegmenterModel(network=shape, slices=SliceSettings(size=(32, 32), spacing=4.0), target=("Siemens",))
    write_segmenter(folder, model, shape.build().state_dict())
    return folder


def trained(raw: Path, folder: Path, *more: str, **options: Any) -> Any:
    options = {"target": ["Siemens"], "preset": "smoke", "device": "cpu", **options}
    small = SMALL if options.get("method", "cyclegan") == "cyclegan" else SLICES
    return train([raw], o=folder, assignments=[*small, *more], **options)


def test_every_scanner_that_is_no_target_is_a_source(raw: Path, discs: Path, tmp_path: Path) -> None:
    result = trained(raw, tmp_path / "model", segmenter=discs)
    model = read_harmonizer(tmp_path / "model")
    assert (model.target, model.sources) == (("Siemens",), ("GE", "Philips"))
    assert model.provenance["segmenter"]["name"] == discs.name
    assert model.slices.spacing == 4.0
    assert result.exit_code == 0
    assert result.slices["target"]["subjects"] == 2
    assert result.slices["target to look at"]["subjects"] == 1
    assert "radiomic error" in result.render()
    json.dumps(result.to_dict())
    assert load_harmonizer(tmp_path / "model")(torch.rand(1, 1, 32, 32) * 255).shape == (1, 1, 32, 32)


@pytest.mark.parametrize(("first", "second"), [("cyclegan", "nyul"), ("nyul", "cyclegan"), ("nyul", "nyul")])
def test_resume_replaces_no_model_that_it_cannot_go_on_with(
    raw: Path, discs: Path, tmp_path: Path, first: Any, second: Any
) -> None:
    def line(method: str) -> list[str]:
        more = ["--segmenter", str(discs)] if method == "cyclegan" else []
        small = SMALL if method == "cyclegan" else SLICES
        return ["train", "-d", str(raw), "--target", "siemens", "-o", str(tmp_path / "m"), "-q", "--method", method,
                "--preset", "smoke", "-device", "cpu", *more, "--set", *small]  # fmt: skip

    assert main(line(first)) == 0
    before = {path: path.read_bytes() for path in (tmp_path / "m").rglob("*") if path.is_file()}
    with pytest.raises(UsageError, match="only networks are gone on with") as caught:
        trained(raw, tmp_path / "m", method=second, resume=True, segmenter=discs if second == "cyclegan" else None)
    assert caught.value.code == "E-TRAIN-EXISTS"
    assert {path: path.read_bytes() for path in (tmp_path / "m").rglob("*") if path.is_file()} == before
    assert main([*line(second), "--overwrite"]) == 0


def test_the_command_trains_resumes_and_refuses_a_second_one(raw: Path, discs: Path, tmp_path: Path) -> None:
    line = ["train", "-d", str(raw), "--target", "siemens", "--source", "GE", "-o", str(tmp_path / "m"), "-q"]
    line += ["--preset", "smoke", "-device", "cpu", "--segmenter", str(discs), "--set", *SMALL]
    assert main(line) == 0
    assert main(line) == 2
    assert main([*line, "--resume"]) == 0
    assert main([*line, "weights.cycle=3", "--resume"]) == 2
    assert main([*line, "weights.cycle=3", "--resume", "--overwrite"]) == 2
    assert read_harmonizer(tmp_path / "m").settings["weights"]["cycle"] == 10
    assert main([*line, "weights.cycle=3", "--overwrite"]) == 0
    assert read_harmonizer(tmp_path / "m").settings["weights"]["cycle"] == 3


def test_a_model_that_was_not_written_any_more_is_written_on_resuming(
    raw: Path, discs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("nnunet_spine_ext.harmonize.cyclegan.training.write_harmonizer", killed)
        with pytest.raises(KeyboardInterrupt):
            trained(raw, tmp_path / "parts", "epochs=1", "save_every=1", segmenter=discs)
    assert not (tmp_path / "parts" / "model.json").exists()
    result = trained(raw, tmp_path / "parts", "epochs=1", "save_every=1", segmenter=discs, resume=True)
    assert result.epochs == (1, 1)
    assert read_harmonizer(tmp_path / "parts").complete
    assert load_harmonizer(tmp_path / "parts") is not None


def test_a_stopped_training_goes_on(raw: Path, discs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained(raw, tmp_path / "whole", "epochs=2", segmenter=discs)
    real = CycleGanTraining._one_epoch

    def stop(self: CycleGanTraining) -> None:
        if self.epoch == 1:
            raise KeyboardInterrupt
        real(self)

    monkeypatch.setattr(CycleGanTraining, "_one_epoch", stop)
    with pytest.raises(KeyboardInterrupt):
        trained(raw, tmp_path / "parts", "epochs=2", segmenter=discs)
    monkeypatch.setattr(CycleGanTraining, "_one_epoch", real)
    assert read_harmonizer(tmp_path / "parts").epochs == (1, 2)
    trained(raw, tmp_path / "parts", "epochs=2", segmenter=discs, resume=True)
    names = [tmp_path / name / "generator_0002.safetensors" for name in ("whole", "parts")]
    assert names[0].read_bytes() == names[1].read_bytes()


@pytest.mark.parametrize("method", ["nyul", "zscore", "histogram"])
def test_baselines_come_from_the_same_command(raw: Path, tmp_path: Path, method: str) -> None:
    result = trained(raw, tmp_path, "baseline.region=slice", "slices.spacing=2", method=method)
    assert result.render()
    harmonizer = load_harmonizer(tmp_path)
    assert harmonizer.method == method
    assert harmonizer(torch.rand(1, 1, 32, 32) * 255).shape == (1, 1, 32, 32)
    assert read_harmonizer(tmp_path).settings["region"] == "slice"


@pytest.mark.parametrize(
    ("more", "options", "named"),
    [
        (["epochs=3"], {"method": "nyul"}, "--set epochs"),
        (["weights.radiomics=0"], {"method": "zscore"}, "--set weights.radiomics"),
        ([], {"method": "histogram", "segmenter": "nowhere"}, "--segmenter"),
        (["baseline.region=slice"], {"method": "cyclegan"}, "--set baseline.region"),
    ],
)
def test_what_a_method_does_not_use_is_refused_by_its_name(
    raw: Path, tmp_path: Path, more: list[str], options: dict[str, Any], named: str
) -> None:
    with pytest.raises(UsageError) as caught:
        trained(raw, tmp_path / "m", *more, **options)
    assert (caught.value.code, caught.value.file) == ("E-HARM-UNUSED", named)
    assert options["method"] in caught.value.found
    assert not (tmp_path / "m").exists()


def test_plain_needs_no_segmenter(raw: Path, tmp_path: Path) -> None:
    weights = [f"weights.{name}=0" for name in ("target_dice", "source_dice", "radiomics", "floor")]
    trained(raw, tmp_path, *weights)
    assert read_harmonizer(tmp_path).provenance["segmenter"] is None


def test_the_source_segmenter_can_begin_as_the_targets(
    raw: Path, discs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[Any] = []
    monkeypatch.setattr(CycleGanTraining, "run", lambda self: begun.append(self) or self.rows.append(_ROW))
    trained(raw, tmp_path / "a", "source_start=target", segmenter=discs)
    trained(raw, tmp_path / "b", segmenter=discs)
    theirs = begun[0].goal.segmenter.network.state_dict()
    copied, fresh = (run.networks.source_segmenter.state_dict() for run in begun)
    assert all(torch.equal(copied[name], theirs[name]) for name in theirs)
    assert not all(torch.equal(fresh[name], theirs[name]) for name in theirs)
    assert all(p.requires_grad for p in begun[0].networks.source_segmenter.parameters())
    assert not any(p.requires_grad for p in begun[0].goal.segmenter.network.parameters())


_ROW = {"cpu_seconds": 0, "validated_unharmonized": "", "validated_radiomics": "", "validated_dice": ""}


def test_a_segmenter_of_other_slices_is_told(raw: Path, discs: Path, tmp_path: Path) -> None:
    result = trained(raw, tmp_path, "slices.spacing=2", "slices.scaling=minmax", segmenter=discs)
    assert [problem.code for problem in result.problems] == ["W-HARM-SEGMENTER"]
    assert "mm" not in result.problems[0].found
    assert "scaling robust, not minmax" in result.problems[0].found
    copied = trained(raw, tmp_path, "slices.spacing=2", "source_start=target", segmenter=discs, overwrite=True)
    assert "4 mm, not 2" in copied.problems[0].found


@pytest.mark.parametrize("mark", ["segmenter.json", "training/settings.json", "plans.json"])
def test_a_harmonizer_never_goes_into_the_folder_of_another_model(
    raw: Path, discs: Path, tmp_path: Path, mark: str
) -> None:
    for name in (mark, "training/state.safetensors"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("{}")
    for method in ("cyclegan", "nyul"):
        with pytest.raises(UsageError, match="E-TRAIN-FOLDER"):
            trained(raw, tmp_path, segmenter=discs if method == "cyclegan" else None, method=method, overwrite=True)
    assert sorted(path.name for path in tmp_path.rglob("*.*")) == sorted([Path(mark).name, "state.safetensors"])


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"source": ["siemens"]}, "E-HARM-SIDES"),
        ({"source": ["Toshiba"]}, "E-SLICE-VENDOR"),
        ({"key": "colour"}, "E-SLICE-KEY"),
        ({"segmenter": None}, "E-HARM-SEGMENTER"),
        ({"segmenter": "nowhere"}, "E-MODEL-SEGMENTER"),
        ({"num_gpus": 3}, "E-HARM-SHARE"),
        ({"num_gpus": 0}, "E-HARM-SHARE"),
        ({"method": "nyul", "num_gpus": 2}, "E-HARM-SHARE"),
        ({"method": "nyuul"}, "E-CONFIG-VALUE"),
        ({"resume": True, "overwrite": True}, "E-TRAIN-BOTH"),
        ({"preset": "smoky"}, "E-PRESET"),
    ],
)
def test_what_cannot_be_done_is_refused(
    raw: Path, discs: Path, tmp_path: Path, options: dict[str, Any], code: str
) -> None:
    given = {"segmenter": discs, "preset": "smoke", **options}
    with pytest.raises(SpineExtError) as caught:
        train([raw], target=["Siemens"], o=tmp_path, assignments=SMALL, device="cpu", **given)
    assert caught.value.code == code
    assert not (tmp_path / "model.json").exists()


def test_a_single_vendor_is_refused(discs: Path, tmp_path: Path) -> None:
    alone = dataset(tmp_path, [{"case": f"s{k}", "manufacturer": "Siemens"} for k in range(3)])
    with pytest.raises(UsageError, match="E-SLICE-SINGLE"):
        trained(alone, tmp_path / "model", segmenter=discs)


def test_a_single_subject_of_the_target_is_refused(discs: Path, tmp_path: Path) -> None:
    rows = [{"case": f"s{k}", "subject": "one", "manufacturer": "Siemens"} for k in range(2)]
    rows += [{"case": f"g{k}", "manufacturer": "GE"} for k in range(2)]
    with pytest.raises(UsageError, match="E-SLICE-SPLIT"):
        trained(dataset(tmp_path, rows), tmp_path / "model", segmenter=discs)


def test_a_segmenter_that_finds_nothing_is_refused(raw: Path, tmp_path: Path) -> None:
    shape = SliceNetworkShape(features=(4, 8), convolutions=1)
    state = {name: torch.zeros_like(value) for name, value in shape.build().state_dict().items()}
    last = [name for name in state if "seg_layers" in name and name.endswith("bias")]
    state |= {name: state[name] - 9 for name in last}
    write_segmenter(tmp_path / "blind", SegmenterModel(network=shape), state)
    with pytest.raises(SpineExtError, match=r"none of .* target slices") as caught:
        trained(raw, tmp_path / "model", segmenter=tmp_path / "blind")
    assert caught.value.code == "E-HARM-NODISC"


def test_regions_without_discs_are_told(discs: Path, tmp_path: Path) -> None:
    rows = [{"case": f"{v}{k}", "manufacturer": v, "mask": None} for v in ("Siemens", "GE") for k in range(3)]
    rows.append({"case": "labelled", "manufacturer": "Philips"})
    plain = [f"weights.{name}=0" for name in ("target_dice", "source_dice", "floor")]
    result = trained(dataset(tmp_path, rows, ignore=True), tmp_path / "model", *plain)
    assert "W-HARM-REGION" in [problem.code for problem in result.problems]


def test_more_gpus_than_there_are_is_said(raw: Path, discs: Path, tmp_path: Path) -> None:
    from nnunet_spine_ext.training.harmonize_processes import train_in_processes

    count = torch.cuda.device_count() + 1
    with pytest.raises(SetupError, match="GPUs"):
        train_in_processes(None, torch.device("cuda"), count)  # type: ignore[arg-type]


@pytest.mark.slow
def test_two_processes_train_as_one(
    raw: Path, discs: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Commands keep messages from other libraries' handlers, and with them from the test's.
    monkeypatch.setattr(logging.getLogger("nnunet_spine_ext"), "propagate", True)
    caplog.set_level(logging.INFO, "nnunet_spine_ext")
    more = ("pool=0", "epochs=2", "batch_size=4", "slices_per_epoch=8")
    for name, count in (("one", 1), ("two", 2)):
        caplog.clear()
        trained(raw, tmp_path / name, *more, segmenter=discs, num_gpus=count)
        assert sum("epoch 2 of 2: loss" in message for message in caplog.messages) == 1
    tables = []
    for name in ("one", "two"):
        with (tmp_path / name / "log.csv").open(newline="") as stream:
            tables.append(list(csv.DictReader(stream)))
    assert len(tables[0]) == len(tables[1]) == 2
    for ours, theirs in zip(*tables, strict=True):
        for column in ("loss", "adversarial", "cycle", "target_dice", "source_dice", "radiomics", "judge_target"):
            assert float(ours[column]) == pytest.approx(float(theirs[column]), rel=2e-3), column
    assert read_harmonizer(tmp_path / "two").provenance["processes"] == 2


@pytest.mark.slow
def test_an_error_in_a_process_is_the_same_error(raw: Path, discs: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="E-HARM-SEGMENTER"):
        trained(raw, tmp_path, segmenter=None, num_gpus=2)
