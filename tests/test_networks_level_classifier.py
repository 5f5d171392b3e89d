"""The network that names vertebrae: answers, sizes, what it refuses."""

from __future__ import annotations

import pytest
import torch

from nnunet_spine_ext.networks.level_classifier import LevelClassifier

HEADS = {"region": 3, "level": 26, "t13": 2}


def test_every_question_is_answered_and_every_weight_learns() -> None:
    network = LevelClassifier(2, HEADS, width=4, blocks=(1, 2, 1))
    answers = network(torch.randn(3, 2, 16, 12, 5))
    assert {name: tuple(logits.shape) for name, logits in answers.items()} == {
        "region": (3, 3),
        "level": (3, 26),
        "t13": (3, 2),
    }
    sum(logits.square().mean() for logits in answers.values()).backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in network.parameters())
    assert all(float(p.grad.abs().max()) > 0 for name, p in network.named_parameters() if name.startswith("heads"))


def test_a_vertebra_alone_is_answered_as_in_a_batch() -> None:
    network = LevelClassifier(1, HEADS, width=8).eval()
    patches = torch.randn(4, 1, 24, 24, 8)
    together = network(patches)["level"]
    alone = torch.cat([network(patch[None])["level"] for patch in patches])
    assert torch.allclose(together, alone, atol=1e-5)


def test_small_axes_are_not_halved_away() -> None:
    answers = LevelClassifier(1, HEADS, width=4, blocks=(1, 1, 1, 1, 1, 1))(torch.randn(1, 1, 4, 9, 1))
    assert bool(answers["level"].isfinite().all())


@pytest.mark.parametrize(
    "changes", [{"width": 0}, {"blocks": ()}, {"blocks": (1, 0)}, {"stem": (2, 2)}, {"heads": {}}, {"channels": 0}]
)
def test_impossible_sizes_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="from 1 on"):
        LevelClassifier(**{"channels": 1, "heads": HEADS, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize("shape", [(1, 2, 8, 8, 8), (1, 1, 8, 8)])
def test_input_of_another_kind_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"expected \(B, 1, P, I, R\)"):
        LevelClassifier(1, HEADS, width=4)(torch.zeros(shape))
