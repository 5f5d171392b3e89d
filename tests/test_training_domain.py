"""The domain-adversarial trainers: what reaches the encoder, what batches hold, resume, refusals."""

from __future__ import annotations

import contextlib
import json
import pickle
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from domain_builder import PLAIN, Maker, case_rows, make
from model_builder import make_image, stock_predict
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
from nnunetv2.training.nnUNetTrainer import nnUNetTrainer as upstream
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from preprocessed_builder import CONFIGURATION, Seen, cascaded, started, two_dimensional

from nnunet_spine_ext.augment.config import AugmentConfig
from nnunet_spine_ext.core.checkpoint import load_checkpoint
from nnunet_spine_ext.core.errors import SetupError, UsageError
from nnunet_spine_ext.core.io import read_volume
from nnunet_spine_ext.inference.predictor import SpinePredictor
from nnunet_spine_ext.training.base import nnUNetTrainerSpine
from nnunet_spine_ext.training.dann import nnUNetTrainerSpineDANN, nnUNetTrainerSpineShiftDANN
from nnunet_spine_ext.training.domain import CHECKPOINT_KEY
from nnunet_spine_ext.training.domain_loader import DomainBalancedLoader
from nnunet_spine_ext.training.domain_loss import ignored
from nnunet_spine_ext.training.presets import read_preset
from nnunet_spine_ext.training.settings import SpineSettings, settings_from_plans, settings_hash
from nnunet_spine_ext.training.shift import nnUNetTrainerSpineShift
from nnunet_spine_ext.training.soft import nnUNetTrainerSpineSoft
from nnunet_spine_ext.training.trainer_choice import trainer_for

__all__ = ["make"]

KINDS = [nnUNetTrainerSpineDANN, nnUNetTrainerSpineShiftDANN]
ALL_KINDS = [
    (nnUNetTrainerSpineDANN, "dann"),
    (nnUNetTrainerSpineShiftDANN, "dann"),
    (nnUNetTrainerSpineShiftDANN, "paired"),
]
SIMULATED = {"kind": nnUNetTrainerSpineShiftDANN}
REGIONS = {"background": 0, "all": [1, 2, 3], "some": [2, 3], "c": 3, "ignore": 4}


@pytest.fixture(autouse=True)
def _quiet() -> Any:
    with warnings.catch_warnings():
        # nnU-Net's loader says it for every patch of a case without masks.
        warnings.filterwarnings("ignore", message=".*No annotated pixels")
        yield


def ordered(dataset_json: dict[str, Any]) -> None:
    dataset_json["regions_class_order"] = [1, 2, 3]


def encoder_gradient(trainer: Any, batch: dict[str, Any], strength: float) -> torch.Tensor:
    """Return the gradient of the deepest encoder stage for one strength, without a step."""
    trainer.network.train()
    trainer.loss.alignment.eval()
    trainer.network.zero_grad()
    out = trainer.network(batch["data"])
    domains = torch.tensor(trainer._domains_of(batch))
    with trainer.loss.telling(domains, strength):
        trainer.loss(out, batch["target"]).backward()
    return torch.cat([p.grad.flatten() for p in trainer.network.encoder.parameters() if p.grad is not None])


def test_the_network_feels_the_domain_reversed_and_the_warm_up_not_at_all(make: Maker) -> None:
    trainer = started(make())
    batch = next(trainer.dataloader_train)
    none, some, more = (encoder_gradient(trainer, batch, s) for s in (0.0, 0.1, 0.2))
    trainer.network.train()
    trainer.network.zero_grad()
    trainer.loss.segmentation(trainer.network(batch["data"]).segmentation, batch["target"]).backward()
    plain = torch.cat([p.grad.flatten() for p in trainer.network.encoder.parameters() if p.grad is not None])
    assert torch.equal(none, plain), "in the warm-up the network trains as nnU-Net's does"
    assert (some - none).abs().max() > 0
    assert torch.allclose(more - none, 2 * (some - none), atol=1e-6)


def test_steps_follow_the_schedule_and_the_classifier_always_learns(make: Maker) -> None:
    trainer = started(make(train={"num_epochs": 10, "num_iterations_per_epoch": 2}, domain={"loss": {"warm_up": 0.1}}))
    strengths = []
    for epoch in range(3):
        trainer.current_epoch = epoch
        trainer.on_train_epoch_start()
        for _ in range(2):
            before = [p.detach().clone() for p in trainer._alignment.parameters()]
            trainer.train_step(next(trainer.dataloader_train))
            strengths.append(trainer.loss._strength)
            assert any(not torch.equal(a, b) for a, b in zip(before, trainer._alignment.parameters(), strict=True))
    assert strengths[:3] == [0, 0, 0], "the first tenth, and the moment in which it ends"
    assert 0 < strengths[3] < strengths[4] < strengths[5] < 0.1


def test_batches_hold_every_domain_and_always_a_mask(make: Maker) -> None:
    trainer = started(make())
    assert isinstance(trainer.dataloader_train.data_loader, DomainBalancedLoader)
    assert type(trainer.dataloader_val.data_loader) is nnUNetDataLoader
    assert upstream.nnUNetDataLoader is nnUNetDataLoader, "the name is nnU-Net's again"
    loader = trainer.dataloader_train.data_loader
    first = []
    for _ in range(40):
        cases = loader.get_indices()
        assert sorted(trainer._domains_of({"keys": cases})) == [0, 1]
        first.append(cases[0])
    assert {"b_1", "c_1", "p_1", "q_1"} <= set(first), "either domain comes first, any case of it"
    again = pickle.loads(pickle.dumps(loader))
    assert sorted(trainer._domains_of({"keys": again.get_indices()})) == [0, 1]


def test_masks_of_targets_do_not_say_where_patches_are_taken(make: Maker) -> None:
    rows = case_rows(c_1={"manufacturer": "Philips"})
    trainer = started(make(rows=rows, domain={"target": ["philips"]}))
    loader = trainer.dataloader_train.data_loader
    places = {case: loader._data.load_case(case)[3]["class_locations"] for case in ("b_1", "c_1")}
    assert any(len(found) for found in places["b_1"].values())
    plain = trainer.dataset_class(trainer.preprocessed_dataset_folder, ["c_1"]).load_case("c_1")[3]["class_locations"]
    assert any(len(found) for found in plain.values()), "the target case has a mask, and nnU-Net would look at it"
    assert places["c_1"].keys() == plain.keys()
    assert not any(len(found) for found in places["c_1"].values())
    for _ in range(4):
        assert next(trainer.dataloader_train)["data"].isfinite().all()


def test_a_classifier_without_gradient_does_not_stop_the_training(make: Maker) -> None:
    trainer = started(make())
    for parameter in trainer._alignment.parameters():
        parameter.grad = torch.zeros_like(parameter)
    # Torch stops where the hook that clips returns anything, as the norm of no gradient.
    trainer.optimizer.step()
    assert all(p.isfinite().all() for p in trainer._alignment.parameters())


@pytest.mark.parametrize(("size", "domains"), [(2, 3), (3, 2), (5, 2), (4, 4)])
def test_domains_take_turns_whatever_their_number(make: Maker, size: int, domains: int) -> None:
    trainer = started(make())
    loader = trainer.dataloader_train.data_loader
    loader.batch_size = size
    groups = [[f"{d}{k}" for k in range(1 + d)] for d in range(domains)]
    loader._by_domain, loader._with_masks = groups, [groups[0], *([] for _ in groups[1:])]
    loader._share = 0.0
    for _ in range(60):
        counts = [sum(case in group for case in loader.get_indices()) for group in groups]
        assert max(counts) - min(counts) <= 1
        assert counts[0] > 0, "the only domain with masks is in every batch"


@pytest.mark.parametrize(("size", "least"), [(2, 1), (3, 2), (6, 3), (7, 4)])
def test_half_of_a_batch_has_masks_where_most_domains_have_none(make: Maker, size: int, least: int) -> None:
    trainer = started(make())
    loader = trainer.dataloader_train.data_loader
    assert loader._share == trainer.domain.labelled_share == 0.5
    loader.batch_size = size
    groups = [[f"{d}{k}" for k in range(3)] for d in range(6)]
    # The second domain has one case with a mask.
    loader._by_domain, loader._with_masks = groups, [groups[0], groups[1][:1], [], [], [], []]
    others = set()
    for _ in range(60):
        cases = loader.get_indices()
        assert sum(case in [*groups[0], "10"] for case in cases) >= least
        others |= {case[0] for case in cases}
        counts = [sum(case in group for case in cases) for group in groups]
        assert max(counts[2:]) - min(counts[2:]) <= 1
    assert others == set("012345"), "all of them take turns"


def test_workers_balance_too(make: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("nnUNet_n_proc_DA", "1")
    trainer = make()
    trainer.initialize()
    train, validation = trainer.get_dataloaders()
    try:
        for _ in range(3):
            assert sorted(trainer._domains_of(next(train))) == [0, 1]
    finally:
        train._finish()
        validation._finish()


def test_foreground_is_looked_for_in_vain_and_nothing_breaks(make: Maker) -> None:
    trainer = started(make(train={"oversample_foreground": 1.0}))
    loader = trainer.dataloader_train.data_loader
    assert all(loader.get_do_oversample(k) for k in range(2))
    loader.get_indices = lambda: ["p_1", "q_1"]
    batch = next(trainer.dataloader_train)
    assert batch["data"].shape == (2, 1, 16, 16, 16)
    assert batch["target"][0].unique().tolist() == [0, 4], "padding is background to nnU-Net"


@pytest.mark.parametrize(("kind", "loss"), ALL_KINDS)
@pytest.mark.parametrize(
    "arguments",
    [{}, {"labels": REGIONS, "change_dataset": ordered}, {"change": two_dimensional}],
    ids=["labels", "regions", "2d"],
)
def test_cases_without_masks_teach_nothing_about_the_spine(
    make: Maker, kind: type[nnUNetTrainer], loss: str, arguments: dict[str, Any]
) -> None:
    trainer = started(make(kind=kind, domain={"loss": {"name": loss, "strength": 0.0}}, **arguments))
    trainer.dataloader_train.data_loader.get_indices = lambda: ["p_1", "q_1"]
    for group in trainer.optimizer.param_groups:
        group["lr"] = 0.0
    trainer.train_step(next(trainer.dataloader_train))
    gradients = [p.grad for p in trainer.network.parameters() if p.grad is not None]
    assert gradients
    assert max(float(g.abs().max()) for g in gradients) == 0, "not in the padding either"
    # A case with a mask teaches, beside one without.
    trainer.dataloader_train.data_loader.get_indices = lambda: ["p_1", "b_1"]
    trainer.train_step(next(trainer.dataloader_train))
    assert max(float(p.grad.abs().max()) for p in trainer.network.parameters() if p.grad is not None) > 0


def test_without_the_filling_padding_would_teach(make: Maker) -> None:
    trainer = started(make(kind=nnUNetTrainerSpine))
    trainer.dataloader_train.data_loader.get_indices = lambda: ["p_1", "q_1"]
    trainer.train_step(next(trainer.dataloader_train))
    assert max(float(p.grad.abs().max()) for p in trainer.network.parameters() if p.grad is not None) > 0


def test_targets_are_ignored_whole_and_the_batch_is_not_changed(make: Maker) -> None:
    labels = make().label_manager
    levels = [torch.zeros(3, 1, 4, 4, dtype=torch.int16), torch.ones(3, 1, 2, 2, dtype=torch.int16)]
    found = ignored(levels, [1], labels)
    assert [t[1].unique().tolist() for t in found] == [[4], [4]]
    assert all(torch.equal(a[[0, 2]], b[[0, 2]]) for a, b in zip(found, levels, strict=True))
    assert levels[0].max() == 0
    assert ignored(levels, [], labels) is levels
    regions = make(labels=REGIONS, change_dataset=ordered).label_manager
    target = torch.ones(2, 4, 3, 3, dtype=torch.bool)
    (whole,) = ignored([target], [0], regions)
    assert whole[0, :-1].any().item() is False
    assert whole[0, -1].all()


def test_masks_of_named_targets_are_not_used(make: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = Seen(monkeypatch)
    rows = case_rows(c_1={"manufacturer": "Philips"}, p_1={"labelled": True}, q_1={"labelled": True})
    splits = [{"train": ["b_1", "c_1"], "val": ["a_1", "q_1"]}]
    trainer = started(make(rows=rows, splits=splits, domain={"target": ["philips"]}))
    assert list(trainer.dataloader_val.data_loader.indices) == ["a_1"], "they do not choose the checkpoint"
    batch = next(trainer.dataloader_train)
    trainer.train_step(batch)
    position = [str(case) for case in batch["keys"]].index("c_1")
    target = seen.batches[0]["target"][0]
    assert target[position].unique().tolist() == [4]
    assert len(target[1 - position].unique()) > 1


def test_simulated_scanners_are_the_domains(make: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = started(make(**SIMULATED))
    assert len(trainer.names) == 6
    told: list[list[int]] = []
    stock = nnUNetTrainer.train_step

    def step(self: Any, batch: dict[str, Any]) -> Any:
        told.append(self.loss._told[0].tolist())
        assert told[-1] == trainer._domains_of(batch)
        return stock(self, batch)

    monkeypatch.setattr(nnUNetTrainer, "train_step", step)
    for _ in range(3):
        trainer.train_step(next(trainer.dataloader_train))
    assert sorted(d for pair in told for d in pair) == list(range(6)), "each scanner once before one comes again"
    plan = trainer.augmentation.plan(trainer._keys(["b_1", "c_1"], 0, 0))
    fired = [{a.name for a in sample} for sample in plan.samples]
    for names, domain in zip(fired, told[0], strict=True):
        scanned = bool(names & {"protocol_change", "slice_profile", "resolution"})
        assert scanned == (trainer.names[domain] != "nako-siemens-3t"), "the reference leaves images as they are"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("loss", ["dann", "cdan", "coral", "mmd", "paired"])
def test_every_loss_trains_and_is_logged(make: Maker, kind: type[nnUNetTrainer], loss: str) -> None:
    if loss == "paired" and kind is nnUNetTrainerSpineDANN:
        with pytest.raises(SetupError, match="taken by one scanner each") as caught:
            make(kind=kind, domain={"loss": {"name": loss}})
        assert caught.value.code == "E-TRAINER-DOMAIN"
        return
    trainer = started(make(kind=kind, domain={"loss": {"name": loss}}))
    trainer.current_epoch = 1
    outputs = [trainer.train_step(next(trainer.dataloader_train)) for _ in range(2)]
    assert all(np.isfinite(o["loss"]) for o in outputs)
    trainer.current_epoch = 0
    trainer.on_train_epoch_end(outputs)
    logged = trainer.logger.local_logger.my_fantastic_logging
    assert 0 <= logged["domain_accuracy"][0] <= 1
    assert logged["domain_loss"][0] > 0
    assert logged["domain_strength"][0] > 0
    assert "chance" in Path(trainer.log_file).read_text()
    with torch.no_grad():
        trainer.on_validation_epoch_start()
        assert np.isfinite(trainer.validation_step(next(trainer.dataloader_val))["loss"])


def test_paired_shows_every_crop_as_two_scanners_take_it(make: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"loss": {"name": "paired", "warm_up": 0}}
    trainer = started(make(**SIMULATED, domain=settings, train={"num_epochs": 4}))
    trainer.current_epoch = 2
    batch = next(trainer.dataloader_train)
    seen: dict[str, Any] = {}
    stock = nnUNetTrainer.train_step

    def step(self: Any, batch: dict[str, Any]) -> Any:
        seen.update(batch, told=self.loss._told)
        return stock(self, batch)

    monkeypatch.setattr(nnUNetTrainer, "train_step", step)
    result = trainer.train_step(batch)
    assert np.isfinite(result["loss"])
    size = trainer.configuration_manager.batch_size
    assert len(seen["data"]) == 2 * size
    assert all(len(level) == size for level in seen["target"]), "the decoder learns on the first pictures"
    domains, strength = seen["told"]
    assert (domains[:size] != domains[size:]).all()
    assert strength > 0
    alone = trainer.augmentation.plan(list(seen["plan"].keys[:size]), 2.5 / 4)
    expected, _ = trainer.augmentation.apply(batch["data"], batch["target"], alone)
    assert torch.equal(seen["data"][:size], expected), "the first pictures are those of any other loss"


def run(trainer: Any, monkeypatch: pytest.MonkeyPatch, *, until: int | None = None) -> Any:
    """Train; until an epoch has ended, if one is given."""
    monkeypatch.setattr(type(trainer.logger), "plot_progress_png", lambda *_: None)
    close = trainer.on_epoch_end

    def closing() -> None:
        close()
        if trainer.current_epoch == until:
            raise KeyboardInterrupt

    trainer.on_epoch_end = closing
    with contextlib.suppress(KeyboardInterrupt):
        trainer.run_training()
    return trainer


@pytest.mark.parametrize(("kind", "loss"), ALL_KINDS)
def test_a_resumed_training_equals_one_that_never_stopped(
    make: Maker, kind: type[nnUNetTrainer], loss: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    domain = {"probe_every": 1, "loss": {"name": loss}}
    settings = {"train": {"num_epochs": 3, "save_every": 1}, "domain": domain, "kind": kind}
    whole = run(make(**settings), monkeypatch)
    run(make(**settings), monkeypatch, until=2)
    resumed = make(**settings)
    resumed.load_checkpoint(str(Path(resumed.output_folder) / "checkpoint_latest.pth"))
    assert resumed.current_epoch == 2
    run(resumed, monkeypatch)
    pairs = [(t.network.state_dict(), t._alignment.state_dict()) for t in (whole, resumed)]
    for one, two in zip(*pairs, strict=True):
        assert list(one) == list(two)
        assert all(torch.equal(one[key], two[key]) for key in one)
    one, two = (t.optimizer.state_dict()["state"] for t in (whole, resumed))
    assert all(torch.equal(one[k]["momentum_buffer"], two[k]["momentum_buffer"]) for k in one)
    logs = [t.logger.local_logger.my_fantastic_logging for t in (whole, resumed)]
    assert logs[0]["domain_loss"] == logs[1]["domain_loss"]
    probes = json.loads((Path(resumed.output_folder) / "domain_probe.json").read_text())["probes"]
    assert [row["epoch"] for row in probes] == [0, 1, 2]


def test_stock_nnunet_and_our_predictor_load_the_model(
    make: Maker, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    trainer = run(make(train={"num_epochs": 1}), monkeypatch)
    model = Path(trainer.output_folder_base)
    file = model / "fold_0" / "checkpoint_final.pth"
    content = load_checkpoint(file)
    assert content[CHECKPOINT_KEY]["domains"] == ["philips", "siemens"]
    plain = nnUNetTrainer.build_network_architecture(trainer.plans_manager, trainer.configuration_manager, 1, 4, True)
    plain.load_state_dict(content["network_weights"], strict=True)
    image = tmp_path / "x_0000.nii.gz"
    make_image(image)
    stock_predict(model, [image], tmp_path / "ours")
    torch.save(content | {"trainer_name": "nnUNetTrainer"}, file)
    stock_predict(model, [image], tmp_path / "renamed")
    answers = [read_volume(tmp_path / name / "x.nii.gz").array for name in ("ours", "renamed")]
    assert np.array_equal(*answers)
    predictor = SpinePredictor(device=torch.device("cpu"))
    predictor.initialize_from_trained_model_folder(str(model), ("0",), "checkpoint_final.pth")
    assert list(predictor.network.state_dict()) == list(plain.state_dict())


def test_a_checkpoint_of_another_training_is_refused(make: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = make(train={"num_epochs": 1})
    trainer.initialize()
    file = Path(trainer.output_folder) / "x.pth"
    trainer.save_checkpoint(str(file))
    content = torch.load(file, weights_only=False)
    torch.save({k: v for k, v in content.items() if k != CHECKPOINT_KEY}, file)
    with pytest.raises(SetupError, match="no classifier of domains") as caught:
        make(train={"num_epochs": 1}).load_checkpoint(str(file))
    assert caught.value.code == "E-DOMAIN-CHECKPOINT"
    content[CHECKPOINT_KEY]["domains"] = ["ge", "siemens"]
    torch.save(content, file)
    with pytest.raises(SetupError, match="the domains ge, siemens"):
        make(train={"num_epochs": 1}).load_checkpoint(str(file))


def of_one(plans: dict[str, Any]) -> None:
    plans["configurations"][CONFIGURATION]["batch_size"] = 1


NO_IGNORE = {name: number for name, number in PLAIN.items() if name != "ignore"}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        ({"change": of_one}, "E-DOMAIN-BATCH", "batch_size"),
        ({"change": cascaded}, "E-DOMAIN-CASCADE", "3d_fullres"),
        ({"labels": NO_IGNORE}, "E-DOMAIN-IGNORE", r"2 training case\(s\) without masks to use: p_1, q_1"),
    ],
)
def test_what_cannot_be_aligned_is_refused(
    make: Maker, kind: type[nnUNetTrainer], arguments: dict[str, Any], code: str, says: str
) -> None:
    with pytest.raises(SetupError, match=says) as caught:
        make(kind=kind, **arguments).initialize()
    assert caught.value.code == code


@pytest.mark.parametrize("kind", KINDS)
def test_several_processes_are_refused(make: Maker, kind: type[nnUNetTrainer]) -> None:
    trainer = make(kind=kind)
    trainer.is_ddp = True
    with pytest.raises(SetupError, match="several processes") as caught:
        trainer.initialize()
    assert caught.value.code == "E-DOMAIN-PARALLEL"


def test_a_single_domain_is_an_error_that_says_what_was_found(make: Maker) -> None:
    with pytest.raises(SetupError, match=r"siemens \(2 cases\)"):
        make(splits=[{"train": ["b_1", "c_1"], "val": ["a_1"]}]).initialize()
    one = {"augment": {"config": {"scanners": {"profiles": ["ge-3t"]}}}}
    with pytest.raises(SetupError, match="one scanner, ge-3t") as caught:
        make(**SIMULATED, settings=one)
    assert caught.value.code == "E-DOMAIN-SINGLE"
    unused = {"augment": {"config": {"scanners": {"profiles": ["ge-3t", "ge-1.5t"], "weights": [0, 1]}}}}
    with pytest.raises(SetupError, match=r"one scanner, ge-1\.5t"):
        make(**SIMULATED, settings=unused)
    with pytest.raises(SetupError, match="no scanners"):
        make(**SIMULATED, settings={"augment": {"config": "shift"}})


@pytest.mark.parametrize("kind", KINDS)
def test_cases_without_masks_do_not_choose_the_checkpoint(make: Maker, kind: type[nnUNetTrainer]) -> None:
    splits = [{"train": ["b_1", "c_1", "p_1"], "val": ["a_1", "q_1"]}]
    trainer = started(make(kind=kind, splits=splits))
    assert list(trainer.dataloader_val.data_loader.indices) == ["a_1"]
    splits = [{"train": ["a_1", "b_1", "c_1", "p_1"], "val": ["q_1"]}]
    with pytest.raises(SetupError) as caught:
        make(kind=kind, splits=splits).initialize()
    assert caught.value.code == "E-DOMAIN-VALIDATION"


def test_simulated_scanners_need_no_table_of_cases(make: Maker) -> None:
    trainer = make(**SIMULATED, train={"splits": "stock"})
    (Path(trainer.preprocessed_dataset_folder_base) / "cases.json").unlink()
    trainer = started(trainer)
    assert np.isfinite(trainer.train_step(next(trainer.dataloader_train))["loss"])
    trainer._probe(0)
    assert (Path(trainer.output_folder) / "domain_probe.json").is_file()


@pytest.mark.parametrize("kind", [nnUNetTrainerSpine, nnUNetTrainerSpineShift, nnUNetTrainerSpineSoft])
def test_other_trainers_refuse_plans_with_domains(make: Maker, kind: type[nnUNetTrainer]) -> None:
    with pytest.raises(SetupError, match="nnUNetTrainerSpineDANN") as caught:
        make(kind=kind, domain={})
    assert caught.value.code == "E-TRAINER-DOMAIN"


def test_each_trainer_has_its_own_kind_of_domain(make: Maker) -> None:
    with pytest.raises(SetupError, match="nnUNetTrainerSpineShiftDANN"):
        make(domain={"key": "simulated"})
    with pytest.raises(SetupError, match="nnUNetTrainerSpineDANN"):
        make(**SIMULATED, domain={"key": "site"})
    with pytest.raises(SetupError, match="nnUNetTrainerSpineShift"):
        make(settings={"augment": {"config": "scanners"}})
    plans = make(**SIMULATED).plans_manager.plans
    stored = settings_from_plans(plans)
    assert stored.domain is not None
    assert stored.domain.key == "simulated"
    assert stored.augment is not None
    assert AugmentConfig.load(stored.augment.config) == AugmentConfig.load("scanners")


def test_plans_choose_the_trainer_and_the_hash_knows_domains() -> None:
    def trainer(**parts: Any) -> str:
        return trainer_for(settings_from_plans({"spine_ext": parts}))

    simulated: dict[str, Any] = {"augment": {"config": "scanners"}}
    assert trainer(domain={}) == "nnUNetTrainerSpineDANN"
    assert trainer(domain={}, **simulated) == "nnUNetTrainerSpineShiftDANN"
    # The trainer adds what simulates the scanners.
    assert trainer(domain={"key": "simulated"}) == "nnUNetTrainerSpineShiftDANN"
    assert trainer(domain={"loss": {"name": "paired"}}, **simulated) == "nnUNetTrainerSpineShiftDANN"
    with pytest.raises(UsageError, match="soft labels"):
        trainer(domain={}, soft={})
    for refused in ({"domain": {"loss": {"name": "paired"}}}, {"domain": {"key": "site"}, **simulated}):
        with pytest.raises(SetupError) as caught:
            trainer(**refused)
        assert caught.value.code == "E-TRAINER-DOMAIN"
    hashes = {settings_hash({"spine_ext": part}) for part in ({}, {"domain": {}}, {"domain": {"key": "site"}})}
    assert len(hashes) == 3
    for preset, key in (("dann", "manufacturer"), ("shift-dann", "simulated")):
        assert read_preset(preset).domain["key"] == key
    assert SpineSettings().domain is None
