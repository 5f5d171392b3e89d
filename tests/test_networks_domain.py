"""Gradient reversal, the network that hands out features, the classifier of domains, and what they do together."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from model_builder import LABELS14, make_plans
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from torch import nn
from torch._dynamo.testing import CompileCounter

from nnunet_spine_ext.core.errors import SetupError, UsageError
from nnunet_spine_ext.losses.domain import DomainLossSettings, damping, unshared
from nnunet_spine_ext.networks.bottleneck import BottleneckNetwork, WithFeatures
from nnunet_spine_ext.networks.domain_alignment import DomainAlignment, coarse, strength_at
from nnunet_spine_ext.networks.domain_head import DomainHead, RunningStandard, pooled
from nnunet_spine_ext.networks.gradient_reversal import reverse_gradient


@pytest.mark.parametrize("strength", [0.3, torch.tensor(0.3)])
def test_the_gradient_is_reversed_and_scaled_and_nothing_else(strength: Any) -> None:
    features = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    out = reverse_gradient(features, strength)
    assert torch.equal(out, features)
    weights = torch.randn_like(out)
    (out * weights).sum().backward()
    assert torch.allclose(features.grad, -0.3 * weights, rtol=1e-6)  # type: ignore[arg-type]


def test_another_lambda_compiles_nothing_anew() -> None:
    counter = CompileCounter()

    @torch.compile(backend=counter, fullgraph=True)
    def compiled(features: torch.Tensor, strength: torch.Tensor) -> torch.Tensor:
        return reverse_gradient(features * 2, strength).square().sum()

    for strength in (0.0, 0.1, 0.2):
        features = torch.ones(3, requires_grad=True)
        compiled(features, torch.tensor(strength)).backward()
        assert torch.allclose(features.grad, torch.full((3,), -strength * 8))  # type: ignore[arg-type]
    assert counter.frame_count == 1


def batch(domains: int = 2, size: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    return torch.randn(size, 6, 4, 5, 3), torch.arange(size) % domains


def gradients(
    name: Any, strength: float, *, bounded: bool = False
) -> tuple[torch.Tensor | None, dict[str, torch.Tensor]]:
    """Return the gradient of the features and those of the classifier, the same classifier each time."""
    torch.manual_seed(1)
    settings = DomainLossSettings(name=name, bounded=bounded)
    alignment = DomainAlignment(settings, channels=6, domains=2, classes=3).eval()
    features, domains = batch()
    features.requires_grad_()
    probabilities = torch.rand(4, 3, 8, 10, 6).softmax(dim=1)
    aligned = alignment(features, domains, strength, probabilities)
    assert aligned.logits.shape == (4, 2)
    aligned.loss.backward()
    return features.grad, {n: p.grad for n, p in alignment.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("name", ["dann", "cdan"])
def test_the_classifier_learns_and_the_encoder_learns_against_it(name: Any) -> None:
    torch.manual_seed(1)
    alignment = DomainAlignment(DomainLossSettings(name=name), channels=6, domains=2, classes=3).eval()
    features, domains = batch()
    features.requires_grad_()
    probabilities = torch.rand(4, 3, 8, 10, 6).softmax(dim=1)
    # The true gradient of the loss, by the classifier alone.
    loss, _ = alignment._classified(features, domains, probabilities)
    loss.backward()
    true, own = features.grad, {n: p.grad.clone() for n, p in alignment.named_parameters() if p.grad is not None}
    reversed_, learnt = gradients(name, 0.25)
    assert true is not None
    assert reversed_ is not None
    assert true.abs().max() > 0
    assert torch.allclose(reversed_, -0.25 * true, rtol=1e-4, atol=1e-9), "the encoder gets it reversed, times lambda"
    assert set(learnt) == set(own)
    for key, gradient in own.items():
        assert torch.allclose(learnt[key], gradient, rtol=1e-4, atol=1e-8), f"{key}: the classifier gets it as it is"


@pytest.mark.parametrize("name", ["dann", "cdan", "coral", "mmd", "paired"])
def test_in_the_warm_up_the_classifier_learns_from_detached_features(name: Any) -> None:
    gradient, own = gradients(name, 0.0)
    assert gradient is None
    assert all(torch.isfinite(g).all() for g in own.values())
    assert max(float(g.abs().max()) for g in own.values()) > 0


@pytest.mark.parametrize("name", ["coral", "mmd"])
def test_distances_are_made_small_and_the_classifier_only_watches(name: Any) -> None:
    torch.manual_seed(1)
    alignment = DomainAlignment(DomainLossSettings(name=name), channels=6, domains=2, classes=3).eval()
    features, domains = batch()
    features = features * (1 + domains.view(-1, 1, 1, 1, 1) * torch.linspace(0, 2, 6).view(1, -1, 1, 1, 1))
    features = features.detach().requires_grad_()
    before = alignment(features, domains, 1.0)
    before.loss.backward()
    stepped = features.detach() - 5.0 * features.grad  # type: ignore[operator]
    classified = [alignment._classified(f.detach(), domains, None)[0] for f in (features, stepped)]
    distances = [
        float(alignment(f, domains, 1.0).loss - c) for f, c in zip((features, stepped), classified, strict=True)
    ]
    assert 0 < distances[1] < distances[0]


def test_the_schedule() -> None:
    settings = DomainLossSettings()
    assert [strength_at(settings, f) for f in (0.0, 0.05, 0.0999)] == [0.0, 0.0, 0.0]
    assert strength_at(settings, 0.1) == 0.0, "rises from zero, without a jump"
    half = 0.1 * (2 / (1 + math.exp(-5)) - 1)
    assert strength_at(settings, 0.55) == pytest.approx(half)
    assert strength_at(settings, 1.0) == pytest.approx(0.1 * (2 / (1 + math.exp(-10)) - 1))
    rising = [strength_at(settings, f / 50) for f in range(51)]
    assert rising == sorted(rising)
    assert strength_at(DomainLossSettings(warm_up=0, strength=2), 0.5) == pytest.approx(2 * half / 0.1)
    assert DomainLossSettings(name="coral").largest == 1.0
    assert DomainLossSettings(name="mmd", strength=0.2).largest == 0.2


@pytest.mark.parametrize("wrong", [{"warm_up": 1.0}, {"strength": -1.0}, {"label_smoothing": 1.0}, {"voxels": 1}])
def test_numbers_outside_their_limits_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(wrong))):
        DomainLossSettings(**wrong)


def unet(kind: str = "PlainConvUNet", *, deep: bool = True) -> nn.Module:
    plans = make_plans()
    architecture = plans["configurations"]["3d_fullres"]["architecture"]
    architecture["network_class_name"] = f"dynamic_network_architectures.architectures.unet.{kind}"
    if kind == "ResidualEncoderUNet":
        kwargs = architecture["arch_kwargs"]
        kwargs["n_blocks_per_stage"] = kwargs.pop("n_conv_per_stage")
    manager = PlansManager(plans)
    torch.manual_seed(0)
    network: nn.Module = nnUNetTrainer.build_network_architecture(
        manager, manager.get_configuration("3d_fullres"), 1, len(LABELS14), deep
    )
    return network


@pytest.mark.parametrize("kind", ["PlainConvUNet", "ResidualEncoderUNet"])
def test_features_come_out_in_training_and_weights_stay_stock(kind: str) -> None:
    stock = unet(kind)
    x = torch.randn(2, 1, 16, 16, 16)
    stock.eval()
    expected = [t.detach() for t in stock(x)]
    network = BottleneckNetwork(stock)
    assert list(network.state_dict()) == list(stock.state_dict())
    network.train()
    out = network(x)
    assert isinstance(out, WithFeatures)
    assert out.features.shape == (2, 8, 4, 4, 4)
    assert all(torch.equal(a, b) for a, b in zip(out.segmentation, expected, strict=True))
    network.eval()
    answer = network(x)
    assert not isinstance(answer, WithFeatures)
    assert all(torch.equal(a, b) for a, b in zip(answer, expected, strict=True))
    unet(kind).load_state_dict(network.state_dict(), strict=True)
    network.decoder.deep_supervision = False
    assert torch.equal(network(x), expected[0])


def test_the_second_half_of_a_batch_may_go_through_the_encoder_alone() -> None:
    stock = unet()
    whole, half = BottleneckNetwork(stock).train(), BottleneckNetwork(stock, twice=True).train()
    x = torch.randn(4, 1, 16, 16, 16)
    one, two = whole(x), half(x)
    assert torch.equal(one.features, two.features)
    assert all(torch.equal(a[:2], b) for a, b in zip(one.segmentation, two.segmentation, strict=True))
    assert all(len(level) == 4 for level in half.eval()(x)), "prediction wants everything"


def test_paired_features_come_nearer_and_the_classifier_only_watches() -> None:
    torch.manual_seed(1)
    alignment = DomainAlignment(DomainLossSettings(name="paired"), channels=6, domains=2, classes=3).eval()
    features, domains = batch()
    features = features.requires_grad_()

    def distance(values: torch.Tensor) -> float:
        return float(unshared(pooled(values[:2]), pooled(values[2:])))

    own = float(alignment._classified(features.detach(), domains, None)[0])
    before = alignment(features, domains, 2.0)
    assert float(before.loss.detach()) - own == pytest.approx(2 * distance(features.detach()), rel=1e-4)
    before.loss.backward()
    stepped = (features - 5.0 * features.grad).detach()  # type: ignore[operator]
    assert distance(stepped) < distance(features.detach())
    for count in (2, 3):
        with pytest.raises(ValueError, match="are not 2 pairs or more"):
            alignment(features[:count], domains[:count], 2.0)


def test_networks_of_another_kind_are_refused() -> None:
    with pytest.raises(SetupError, match="encoder and a decoder") as caught:
        BottleneckNetwork(nn.Sequential(nn.Linear(2, 2)))
    assert caught.value.code == "E-DOMAIN-NETWORK"


def test_the_head_reads_spread_and_extremes_not_only_means() -> None:
    features = torch.randn(3, 5, 4, 4)
    mean, spread, largest = pooled(features).chunk(3, dim=1)
    assert torch.allclose(mean, features.mean(dim=(2, 3)), atol=1e-6)
    assert torch.allclose(spread, features.var(dim=(2, 3), unbiased=False).add(1e-6).sqrt(), atol=1e-6)
    assert torch.equal(largest, features.amax(dim=(2, 3)))
    constant = torch.ones(1, 2, 3, 3, requires_grad=True)
    pooled(constant).sum().backward()
    assert torch.isfinite(constant.grad).all()  # type: ignore[arg-type]
    assert DomainHead(5, 4, dimensions=2)(features).shape == (3, 4)


def test_conditioned_answers_are_per_class_and_absent_classes_have_no_share() -> None:
    torch.manual_seed(0)
    head = DomainHead(6, 2, classes=3).eval()
    features = torch.randn(1, 6, 4, 4, 4)
    probabilities = torch.zeros(1, 3, 4, 4, 4)
    probabilities[:, 0, :3] = 1
    probabilities[:, 1, 3:] = 1
    logits, shares = head.conditioned(features, probabilities)
    assert logits.shape == (1, 3, 2)
    assert shares.tolist() == [[0.75, 0.25, 0.0]]
    changed = features.clone()
    changed[:, :, 3:] += torch.randn(1, 6, 1, 4, 4)
    other, _ = head.conditioned(changed, probabilities)
    assert torch.allclose(other[:, 0], logits[:, 0]), "a class is judged by its own voxels"
    assert not torch.allclose(other[:, 1], logits[:, 1])


def test_probabilities_are_averaged_on_the_grid_of_the_features() -> None:
    fine = torch.rand(2, 3, 8, 8, requires_grad=True)
    found = coarse(fine, torch.Size([2, 4]))
    assert found.shape == (2, 3, 2, 4)
    assert not found.requires_grad
    assert torch.allclose(found[0, 0, 0, 0], fine[0, 0, :4, :2].mean())


def test_running_statistics_are_those_of_many_batches_and_stay_in_evaluation() -> None:
    generator = torch.Generator().manual_seed(0)
    standard = RunningStandard(3)
    scale, shift = torch.tensor([1.0, 10.0, 0.1]), torch.tensor([0.0, 5.0, -3.0])
    for _ in range(400):
        standard(torch.randn(2, 3, generator=generator) * scale + shift)
    assert torch.allclose(standard.mean, shift, atol=1.0)
    assert torch.allclose(standard.variance.sqrt(), scale, rtol=0.5)
    kept = standard.mean.clone()
    standard.eval()
    out = standard(shift[None])
    assert torch.equal(standard.mean, kept)
    assert out.abs().max() < 1
    weighted = RunningStandard(1)
    weighted(torch.tensor([[1.0], [100.0]]), torch.tensor([1.0, 0.0]))
    assert weighted.mean.item() == 1.0, "samples without weight do not count"


def scans(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Features of two domains that differ a little beside what all have in common."""
    domains = torch.arange(count) % 2
    features = 5 + torch.randn(count, 8, 4, 4)
    features[:, 0] += 2 * domains.view(-1, 1, 1)
    return features, domains


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_the_classifier_learns_within_few_steps_of_small_batches(optimizer: str) -> None:
    torch.manual_seed(0)
    head = DomainHead(8, 2, dimensions=2)
    parameters = head.parameters()
    # nnU-Net's learning rate, and the classifier's own momentum.
    step: Any = torch.optim.SGD(parameters, 1e-2, momentum=0.9, nesterov=True)
    if optimizer == "adamw":
        step = torch.optim.AdamW(head.parameters(), 2e-3)
    for _ in range(250):
        features, domains = scans(2)
        loss = nn.functional.cross_entropy(head(features), domains, label_smoothing=0.1)
        step.zero_grad()
        loss.backward()
        step.step()
    features, domains = scans(200)
    assert float((head.eval()(features).argmax(dim=1) == domains).float().mean()) > 0.8


def told(name: Any, strength: float, *, bounded: bool = True) -> tuple[float, float]:
    """Return how far apart two domains are in what small encoders learn, and the loss of what they are for.

    The distance is in standard deviations; both are means over three seeds.
    """
    found = torch.tensor([_told(DomainLossSettings(name=name, bounded=bounded), strength, seed) for seed in range(3)])
    apart, task = found.mean(dim=0).tolist()
    return apart, task


def _told(settings: DomainLossSettings, strength: float, seed: int) -> tuple[float, float]:
    torch.manual_seed(seed)
    encoder = nn.Conv2d(8, 6, 1)
    alignment = DomainAlignment(settings, channels=6, domains=2, classes=2, dimensions=2)
    groups = [{"params": encoder.parameters(), "lr": 1e-2}, {"params": alignment.parameters(), "lr": 3e-3}]
    step = torch.optim.Adam(groups)
    tasks = []
    for _ in range(300):
        features, domains = scans(8)
        seen = encoder(features)
        # What the encoder is for: one channel that does not tell.
        task = (seen[:, 0] - features[:, 3]).square().mean()
        tasks.append(float(task.detach()))
        step.zero_grad()
        (task + alignment(seen, domains, strength).loss).backward()
        step.step()
    features, domains = scans(400)
    seen = encoder(features).detach().mean(dim=(2, 3))
    apart = (seen[domains == 1].mean(0) - seen[domains == 0].mean(0)).abs() / seen.std(dim=0)
    return float(apart.mean()), sum(tasks[-50:]) / 50


def test_what_is_learnt_tells_the_domain_less_and_with_the_wrong_sign_more() -> None:
    without, _ = told("dann", 0.0)
    less, task = told("dann", 1.0)
    assert less < 0.8 * without < 1.1 * without < told("dann", -1.0)[0]
    # Paid for every error of the classifier, the encoder hides no more, and does worse what it is for.
    unbounded, worse = told("dann", 1.0, bounded=False)
    assert less < unbounded
    assert task < worse
    assert told("mmd", 1.0)[0] < 0.75 * without


def test_confident_errors_of_the_classifier_are_not_paid_for() -> None:
    right, guess, wrong = torch.tensor([4.0, 0.0]), torch.tensor([0.0, 0.0]), torch.tensor([-4.0, 0.0])
    logits = torch.stack((right, guess, wrong, guess - torch.tensor([0.5, 0.0]))).requires_grad_()
    factors = damping(logits, torch.zeros(4, dtype=torch.long))
    loss = math.log(1 + math.exp(0.5)) / math.log(2)
    assert factors.tolist() == pytest.approx([1, 1, 0, 2 - loss], abs=1e-6)
    assert not factors.requires_grad


@pytest.mark.parametrize("name", ["dann", "cdan"])
def test_bounded_the_encoder_feels_each_sample_by_its_damping(name: Any) -> None:
    plain, learnt = gradients(name, 0.25)
    bounded, same = gradients(name, 0.25, bounded=True)
    assert plain is not None
    assert bounded is not None
    torch.manual_seed(1)
    alignment = DomainAlignment(DomainLossSettings(name=name), channels=6, domains=2, classes=3).eval()
    features, domains = batch()
    probabilities = torch.rand(4, 3, 8, 10, 6).softmax(dim=1)
    factors = damping(alignment(features, domains, 0.25, probabilities).logits, domains)
    assert torch.allclose(bounded, plain * factors[:, None, None, None, None], atol=1e-9)
    assert all(torch.equal(learnt[key], same[key]) for key in learnt)
