"""Tissues by the names of labels: what trainers and the command know of a data set without being told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from augment_checks import images, keys
from preprocessed_builder import make_trainer, started

from nnunet_spine_ext.augment.context import Context
from nnunet_spine_ext.augment.pipeline import Pipeline, Plan
from nnunet_spine_ext.augment.tissue_names import tissue_of_name, tissues_of_names
from nnunet_spine_ext.augment.tissues import class_of_label, classes_of_scheme
from nnunet_spine_ext.core.labels import SCHEMES
from nnunet_spine_ext.training.shift import nnUNetTrainerSpineShift

# As data sets made of the masks of these programs name their labels; consecutive, as nnU-Net wants them.
SPINEPS = {
    "background": 0, "Sacrum": 1, "Arcus_Vertebrae": 2, "Spinosus_Process": 3, "Costal_Process_Left": 4,
    "Superior_Articular_Left": 5, "Vertebra_Corpus_border": 6, "Spinal_Cord": 7, "Spinal_Canal": 8, "Endplate": 9,
    "Vertebra_Disc": 10,
}  # fmt: skip
TOTALSPINESEG = {
    "background": 0, "spinal_cord": 1, "spinal_canal": 2, "vertebrae_C1": 3, "vertebrae_L5": 4, "disc_C2_C3": 5,
    "disc_L5_S": 6, "sacrum": 7,
}  # fmt: skip
SPIDER = {"background": 0, "vertebrae": 1, "IVDs": 2, "spinal canal": 3}
UNKNOWN = {"background": 0, **{f"structure_{n}": n for n in range(1, 15)}}


@pytest.mark.parametrize(
    ("labels", "classes", "unknown"),
    [
        (
            SPINEPS,
            {
                **{1: "sacrum", 2: "bone", 3: "bone", 4: "bone", 5: "bone", 6: "marrow"},
                **{7: "cord", 8: "csf", 9: "endplate", 10: "disc"},
            },
            (),
        ),
        (
            TOTALSPINESEG,
            {1: "cord", 2: "csf", 5: "disc", 6: "disc", 7: "sacrum"},
            ("vertebrae_C1", "vertebrae_L5"),
        ),
        (SPIDER, {2: "disc", 3: "csf"}, ("vertebrae",)),
        (UNKNOWN, {}, tuple(f"structure_{n}" for n in range(1, 15))),
        # The smallest region that says a tissue counts; the ignore label is none.
        ({"background": 0, "bone": [1, 2, 3], "disc": [3], "ignore": 4}, {1: "bone", 2: "bone", 3: "disc"}, ()),
        ({"background": 0, "spine": [1, 2], "cord": 1, "lesion": 2}, {1: "cord"}, ("spine", "lesion")),
    ],
    ids=["spineps", "totalspineseg", "spider", "unknown", "regions", "partly known regions"],
)
def test_names_say_tissues(labels: dict[str, Any], classes: dict[int, str], unknown: tuple[str, ...]) -> None:
    found = tissues_of_names(labels)
    assert found.classes == classes
    assert found.unknown == unknown


@pytest.mark.parametrize("name", sorted(SCHEMES))
def test_names_of_known_schemes_say_what_their_translation_does(name: str) -> None:
    labels = SCHEMES[name].labels
    translated = classes_of_scheme(name)
    assert {label: tissue_of_name(labels[label]) for label in translated} == translated
    written = {text.replace(" ", "_").title(): label for label, text in labels.items()}
    named = tissues_of_names(written).classes
    assert {label: named[label] for label in translated} == translated
    # Of SPIDER's discs the one below vertebra 25, which has no counterpart among levels, is a disc as well.
    assert all(named[label] in ("disc", "endplate") for label in named.keys() - translated.keys())


def test_what_nobody_named_is_not_taken_for_the_14_classes() -> None:
    shape, spacing = (4, 4, 4), (1.0, 1.0, 1.0)
    assert class_of_label(Context(shape, spacing, labels=range(15)))[11] == "cord"
    looked = Context(shape, spacing, labels=range(15), tissues=())
    assert class_of_label(looked) == {}
    known = Context(shape, spacing, labels=range(3), tissues=((2, "disc"), (7, "cord")))
    assert class_of_label(known) == {2: "disc"}, "label 7 does not occur"
    assert class_of_label(known, {1: "fat"}) == {1: "fat"}, "what is said wins"
    assert Context(**json.loads(json.dumps(known.to_dict()))) == known
    assert "tissues" not in Context(shape, spacing).to_dict()


def test_a_record_keeps_the_tissues() -> None:
    context = Context((6, 8, 8), (1.0, 1.0, 1.0), labels=range(3), tissues=((2, "disc"),))
    line = Pipeline({"transforms": [{"name": "signal_equations", "p": 1}]}, context)
    plan = line.plan(keys(1))
    assert set(plan.samples[0][0].params["signals"]) == {"2"}
    again = Plan.from_record(json.loads(json.dumps(plan.record)))
    assert again.context == context
    image = images(1, context.shape)
    assert line.apply(image, None, plan)[0].equal(Pipeline({"transforms": []}, context).apply(image, None, again)[0])


def _trained(root: Path, monkeypatch: pytest.MonkeyPatch, labels: dict[str, Any], entry: dict[str, Any]) -> tuple:
    """Return the signals that a step of a training gives to labels, and the lines of the log about tissues."""
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    schedule = {"clean_share": 0.0, "closing_clean_share": 0.0, "ramp_share": 0.0}
    settings = {
        "train": {"num_epochs": 1, "num_iterations_per_epoch": 1, "num_val_iterations_per_epoch": 1, "mirror": False},
        "augment": {"config": {"schedule": schedule, "transforms": [{"name": "signal_equations", "p": 1, **entry}]}},
    }
    trainer = started(make_trainer(nnUNetTrainerSpineShift, root, settings=settings, labels=labels))
    batch = trainer._prepared(next(trainer.dataloader_train), 0, 0)
    (applied,) = batch["plan"].samples[0]
    log = Path(trainer.log_file).read_text()
    return set(applied.params["signals"]), [line for line in log.splitlines() if "No tissue is known" in line]


@pytest.mark.parametrize(
    ("labels", "entry", "known", "said"),
    [
        (SPINEPS, {}, set(map(str, range(1, 11))), None),
        (TOTALSPINESEG, {}, {"1", "2", "5", "6", "7"}, "vertebrae_C1, vertebrae_L5: signal_equations leave"),
        (SPIDER, {"classes": {"1": "marrow"}}, {"1"}, None),
        (UNKNOWN, {}, set(), "structure_12 and 2 more"),
    ],
    ids=["spineps", "totalspineseg", "classes win", "unknown"],
)
def test_trainers_take_tissues_from_the_names(
    nnunet_folders: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
    labels: dict[str, Any],
    entry: dict[str, Any],
    known: set[str],
    said: str | None,
) -> None:
    found, lines = _trained(nnunet_folders["nnUNet_preprocessed"], monkeypatch, labels, entry)
    assert found == known
    assert len(lines) == (said is not None), "once, and only where there is something to say"
    assert said is None or said in lines[0]
