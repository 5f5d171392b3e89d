"""Vertebrae from answers about cutouts: an oracle answers in place of the network, right or wrong."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
from instance_oracle import MODES, Errors, Oracle
from spine_builder import LEVELS, Spine, build, panoptic

from nnunet_spine_ext.core.config import load_config, to_dict
from nnunet_spine_ext.core.errors import CaseError, UsageError
from nnunet_spine_ext.core.volume import Volume
from nnunet_spine_ext.instances import InstanceResult, InstanceSettings, networked, separate
from nnunet_spine_ext.instances.cutout_network import CutoutAnswer
from nnunet_spine_ext.instances.cutouts import CutoutSpec
from nnunet_spine_ext.instances.fusion import FusionSettings, Voter, choose, find_candidates, gather, vote

WHOLE = tuple(LEVELS)
LOW = ("T11", "T12", "L1", "L2", "L3", "L4", "L5")
COARSE = (3.0, 2.0, 2.0)
SPEC = CutoutSpec(size=(96, 112, 32), spacing=(2.0, 2.0, 3.0))

# The spines of which the network-free mode gets the boundaries a little wrong.
CASES = {
    "whole": Spine(WHOLE, spacing=COARSE),
    "two bodies fused": Spine(LOW, spacing=COARSE, fused=(("L1", "L2"),)),
    "four bodies fused": Spine(LOW, spacing=COARSE, fused=(("T12", "L1", "L2", "L3"),)),
    "twelve bodies fused": Spine(WHOLE, spacing=COARSE, fused=(WHOLE[6:18],)),
    "all bodies fused": Spine(WHOLE, spacing=COARSE, fused=(WHOLE,)),
    "cleft body": Spine(LOW, spacing=COARSE, cleft=("L2",)),
    "two missing bodies": Spine(WHOLE, spacing=COARSE, missing_body=("T6", "T7")),
    "missing discs": Spine(LOW, spacing=COARSE, missing_disc=("L1", "L2", "L3")),
    "cropped": Spine(WHOLE, spacing=COARSE, crop=(80.0, 20.0)),
    "scoliosis": Spine(WHOLE, spacing=COARSE, scoliosis=28.0),
    "no posterior elements": Spine(LOW, spacing=COARSE, posterior=False),
    "two vertebrae": Spine(("L1", "L2"), spacing=COARSE, sacrum=False),
    "one vertebra": Spine(("L3",), spacing=COARSE, sacrum=False),
}


@cache
def spine(name: str) -> tuple[Volume, Volume]:
    return build(CASES[name])


def quality(truth: Volume, result: InstanceResult, kind: str = "vertebra") -> float:
    return panoptic(truth.array, result.instances.array, kind)[2]


@pytest.mark.parametrize("name", list(CASES))
def test_a_perfect_network_gives_perfect_vertebrae(name: str) -> None:
    semantic, truth = spine(name)
    result = separate(semantic, predictor=Oracle(semantic, truth, SPEC))
    assert quality(truth, result) >= 0.999
    assert quality(truth, result, "disc") >= 0.999
    assert result.qc["method"] == "network"
    # Windows of this size cut off tips of the widest processes of a curved spine.
    assert min(result.qc["agreement"].values()) >= 0.99
    assert not [w.code for w in result.warnings if w.code != "W-INST-FUSED"]


def test_the_network_is_better_than_the_network_free_mode_where_that_errs() -> None:
    semantic, truth = spine("all bodies fused")
    assert quality(truth, separate(semantic)) < 0.95
    assert quality(truth, separate(semantic, predictor=Oracle(semantic, truth, SPEC))) > 0.999


@pytest.mark.parametrize(("mode", "correlated"), list(itertools.product(MODES, (False, True))))
def test_errors_of_half_of_the_cutouts_change_little(mode: str, correlated: bool) -> None:
    semantic, truth = spine("twelve bodies fused")
    least = 0.95 if mode == "boundary" else 0.98
    for seed in (0, 1):
        oracle = Oracle(semantic, truth, SPEC, Errors(mode, 0.5, correlated, seed))
        result = separate(semantic, predictor=oracle)
        assert panoptic(truth.array, result.instances.array, "vertebra")[0] == 1.0
        assert quality(truth, result) >= least


@pytest.mark.parametrize("mode", MODES)
def test_a_network_that_errs_nearly_always_is_no_worse_than_none(mode: str) -> None:
    semantic, truth = spine("whole")
    without = quality(truth, separate(semantic))
    found = separate(semantic, predictor=Oracle(semantic, truth, SPEC, Errors(mode, 0.8, True, 3)))
    assert panoptic(truth.array, found.instances.array, "vertebra")[0] == 1.0
    assert quality(truth, found) >= without - (0.03 if mode == "boundary" else 0.005)


def test_one_unusable_cutout_is_a_warning_and_not_the_end() -> None:
    semantic, truth = spine("whole")
    oracle = Oracle(semantic, truth, SPEC)

    class OneEmpty(Oracle):
        def predict(self, grid: Any, cutouts: Any) -> list[CutoutAnswer]:
            answers = oracle.predict(grid, cutouts)
            box = (slice(0, 0), slice(0, 0), slice(0, 0))
            empty = CutoutAnswer(box, np.zeros((0, 0, 0), dtype=np.uint8))
            return [empty if cutout.number == 0 else answer for cutout, answer in zip(cutouts, answers, strict=True)]

    result = separate(semantic, predictor=OneEmpty(semantic, truth, SPEC))
    assert quality(truth, result) >= 0.999
    assert [w.code for w in result.warnings] == ["W-INST-CUTOUT"]


def test_answers_that_fit_nothing_are_counted_and_named() -> None:
    semantic, truth = spine("whole")
    oracle = Oracle(semantic, truth, SPEC, Errors("merge", 0.6, True, 0))
    result = separate(semantic, predictor=oracle)
    codes = {w.code for w in result.warnings}
    assert "W-INST-COUPLE" in codes
    assert result.qc["answers_unused"] > 0
    assert quality(truth, result) >= 0.98


def test_a_network_that_never_answers_leaves_the_network_free_result() -> None:
    semantic, truth = spine("whole")
    without = separate(semantic)
    result = separate(semantic, predictor=Oracle(semantic, truth, SPEC, Errors("empty", 1.0)))
    np.testing.assert_array_equal(result.instances.array, without.instances.array)
    assert {"W-INST-CUTOUT", "W-INST-AGREE", "W-INST-UNCOVERED"} <= {w.code for w in result.warnings}
    assert set(result.qc["agreement"].values()) == {0.0}


def test_more_cutouts_are_placed_where_a_body_was_not_claimed(monkeypatch: pytest.MonkeyPatch) -> None:
    semantic, truth = spine("whole")
    every = networked.body_seeds

    def every_fifth(*where: Any) -> list[tuple[int, int, int]]:
        return every(*where)[::5]

    monkeypatch.setattr(networked, "body_seeds", every_fifth)
    oracle = Oracle(semantic, truth, SPEC)
    result = separate(semantic, predictor=oracle)
    assert result.qc["cutouts"] == oracle.asked > 5
    assert quality(truth, result) >= 0.999
    assert not result.warnings
    less = load_config(InstanceSettings, {"network": {"reseed": 0}})
    assert "W-INST-UNCOVERED" in {w.code for w in separate(semantic, settings=less, predictor=oracle).warnings}


def test_two_seeds_in_one_vertebra_do_no_harm(monkeypatch: pytest.MonkeyPatch) -> None:
    semantic, truth = spine("whole")
    every = networked.body_seeds

    def doubled(*where: Any) -> list[tuple[int, int, int]]:
        return [(p + step, i + step, r) for p, i, r in every(*where) for step in (-1, 1)]

    monkeypatch.setattr(networked, "body_seeds", doubled)
    assert quality(truth, separate(semantic, predictor=Oracle(semantic, truth, SPEC))) >= 0.999


@pytest.mark.parametrize("soft", [False, True])
def test_equal_input_gives_equal_output_in_any_orientation(soft: bool) -> None:
    semantic, truth = build(Spine(LOW, spacing=COARSE))
    errors = Errors("shift", 0.5)
    first = separate(semantic, predictor=Oracle(semantic, truth, SPEC, errors, soft=soft))
    assert quality(truth, first) >= 0.999
    for orientation in ("RAS", "PIR", "LPS"):
        turned, answers = semantic.to(orientation), truth.to(orientation)
        again = separate(turned, predictor=Oracle(turned, answers, SPEC, errors, soft=soft))
        np.testing.assert_array_equal(again.instances.to("RAS").array, first.instances.to("RAS").array)
        assert again.qc == first.qc


def test_voxels_between_those_of_a_coarse_network_find_their_vertebra() -> None:
    semantic, truth = build(Spine(("L1", "L2", "L3"), spacing=(1.0, 1.0, 1.0)))
    coarse = CutoutSpec(size=(96, 112, 32), spacing=(1.9, 2.0, 3.3))
    result = separate(semantic, predictor=Oracle(semantic, truth, coarse))
    assert quality(truth, result) >= 0.97
    assert result.qc["voxels_filled"] > 0
    assert result.qc["unassigned_voxels"] == 0


def test_an_unusable_mask_or_model_is_said() -> None:
    semantic, truth = build(Spine(("L1", "L2"), spacing=COARSE))
    oracle = Oracle(semantic, truth, SPEC)
    empty = semantic.with_array(np.zeros_like(semantic.array))
    assert [w.code for w in separate(empty, predictor=oracle).warnings] == ["W-INST-NONE"]
    no_body = semantic.with_array(np.where(semantic.array == 10, 0, semantic.array))
    assert [w.code for w in separate(no_body, predictor=oracle).warnings] == ["W-INST-NONE"]
    with pytest.raises(UsageError, match="another encoding"):
        separate(semantic.with_array(np.where(semantic.array == 10, 5, 0)), "spider", predictor=oracle)
    unknown = semantic.array.copy()
    unknown[0, 0, 0] = 77
    with pytest.raises(CaseError):
        separate(semantic.with_array(unknown), predictor=oracle)


def test_settings_are_read_and_the_qc_is_json() -> None:
    settings = load_config(InstanceSettings, {"network": {"reseed": 0, "fusion": {"free_weight": 0.5}}})
    assert to_dict(settings)["network"]["fusion"]["free_weight"] == 0.5
    semantic, truth = build(Spine(("L1", "L2"), spacing=COARSE))
    json.dumps(separate(semantic, settings=settings, predictor=Oracle(semantic, truth, SPEC)).qc)


# Fusion by itself: sites in a row, ten for each of five vertebrae.
NO_PEDICLES = (np.zeros(0, dtype=np.intp), np.zeros(0, dtype=np.intp))
TRUTH = np.repeat(np.arange(1, 6), 10).astype(np.uint8)


def cutout(centre: int, **changes: int) -> Voter:
    """Answers 1, 2, 3 for centre - 1, centre, centre + 1, with changes (v3=1: vertebra 3 is called 1)."""
    names = np.zeros(7, dtype=np.uint8)
    for name, vertebra in enumerate((centre - 1, centre, centre + 1), start=1):
        names[vertebra] = name
    for vertebra_name, name in changes.items():
        names[int(vertebra_name[1:])] = name
    names[[0, 6]] = 0
    return Voter(0, names[TRUTH], 3)


def fuse(voters: Sequence[Voter], settings: FusionSettings | None = None) -> tuple[np.ndarray, Any, list[int]]:
    settings = settings or FusionSettings()
    candidates = find_candidates(voters, 1, NO_PEDICLES)
    places = np.array(
        [
            np.flatnonzero(voters[v].labels == k).mean() + voters[v].low
            for v, k in zip(candidates.voter, candidates.label, strict=True)
        ]
    )
    chosen = choose(candidates, voters, places, settings)
    vertebrae, unused = gather(candidates, voters, chosen, settings)
    return vote(candidates, voters, vertebrae, len(TRUTH), settings), vertebrae, unused


def test_every_answer_is_used_once_and_no_vertebra_gets_two_of_one_cutout() -> None:
    voters = [cutout(k) for k in range(1, 6)]
    found, vertebrae, unused = fuse(voters)
    np.testing.assert_array_equal(found, TRUTH)
    assert not unused
    members = [k for vertebra in vertebrae for k in vertebra.members]
    assert len(members) == len(set(members)) == 13
    candidates = find_candidates(voters, 1, NO_PEDICLES)
    for vertebra in vertebrae:
        used = candidates.voter[list(vertebra.members)]
        assert len(set(used)) == len(used)


def test_a_merge_that_two_neighbours_make_alike_loses_against_the_single_vertebrae() -> None:
    # Cutouts 2 and 3 both call vertebrae 2 and 3 one; 1 and 4 see them apart.
    voters = [cutout(1), cutout(2, v3=2, v4=3), cutout(3, v2=2, v1=1), cutout(4), cutout(5)]
    free = Voter(0, TRUTH.astype(np.int16), 5, network=False)
    found, vertebrae, unused = fuse([free, *voters])
    np.testing.assert_array_equal(found, TRUTH)
    assert len(unused) == 2
    assert len(vertebrae) == 5


def test_an_answer_with_the_arch_on_another_body_counts_little() -> None:
    # Even sites are bodies, odd ones arches; vertebrae 2 and 3 have exchanged their arches in two cutouts of three.
    arch, body = np.arange(1, 50, 2), np.arange(0, 50, 2)

    def torn(centre: int) -> Voter:
        good = cutout(centre)
        labels = good.labels.copy()
        labels[11:20:2], labels[21:30:2] = good.labels[20], good.labels[10]
        return replace(good, labels=labels)

    voters = [cutout(1), torn(2), torn(3), cutout(4)]
    candidates = find_candidates(voters, 1, (arch, body))
    places = np.array(
        [np.flatnonzero(voters[v].labels == k).mean() for v, k in zip(candidates.voter, candidates.label, strict=True)]
    )
    settings = FusionSettings()
    chosen = choose(candidates, voters, places, settings)
    vertebrae, _ = gather(candidates, voters, chosen, settings)
    np.testing.assert_array_equal(vote(candidates, voters, vertebrae, len(TRUTH), settings), TRUTH)


def test_soft_votes_follow_the_probabilities() -> None:
    certain, doubtful = cutout(2), cutout(3)
    # Cutout 3 gives the last sites of vertebra 2 to vertebra 3, but hardly believes it.
    labels = doubtful.labels.copy()
    labels[18:20] = 2
    strong = np.stack([(certain.labels == k) * 0.9 + 0.025 for k in range(4)])
    weak = np.stack([(labels == k) * 0.3 + 0.175 for k in range(4)])
    voters = [replace(certain, probabilities=strong), replace(doubtful, labels=labels, probabilities=weak)]
    found = fuse(voters)[0]
    np.testing.assert_array_equal(found[:40], TRUTH[:40])


def test_fusion_of_nothing_is_nothing() -> None:
    empty = Voter(0, np.zeros(0, dtype=np.uint8), 3)
    found, vertebrae, unused = fuse([empty, empty])
    assert not found.any()
    assert vertebrae == []
    assert unused == []
