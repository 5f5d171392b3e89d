"""On a graphics card: the same result as on the processor, bit by bit the same again, and the host never waits."""

from __future__ import annotations

import pytest
import torch
from augment_checks import context, images, keys, label_map
from torch import Tensor

from nnunet_spine_ext.augment.pipeline import Pipeline
from nnunet_spine_ext.augment.transform import STAGES, registry

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")

SHAPE = (24, 48, 40)
OWN = ("table", "field", "noise", "final")
EVERYTHING = [{"name": name, "p": 0.3} for name, cls in registry().items() if cls.stage in OWN]


def _on(device: str, line: Pipeline, seed: int) -> Tensor:
    image, labels = images(2, SHAPE).to(device), label_map(2, SHAPE).to(device)
    plan = line.plan(keys(2, seed))
    torch.cuda.synchronize()
    try:
        torch.cuda.set_sync_debug_mode("error")
        return line.apply(image, labels, plan)[0]
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("seed", range(12))
def test_both_devices_agree_and_the_host_does_not_wait(seed: int) -> None:
    line = Pipeline({"transforms": EVERYTHING}, context(SHAPE))
    _on("cuda", line, seed)  # pools and constants are made once
    first, second, host = (_on(device, line, seed) for device in ("cuda", "cuda", "cpu"))
    assert torch.equal(first, second)
    # A voxel at the border of two classes may fall to either side.
    close = torch.isclose(first.cpu(), host, rtol=1e-3, atol=1e-2)
    assert close.float().mean() > 0.999


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("seed", range(3))
def test_no_stage_makes_the_host_wait(stage: str, seed: int) -> None:
    chosen = [{"name": name, "p": 1.0} for name, cls in registry().items() if cls.stage == stage]
    line = Pipeline({"transforms": chosen}, context(SHAPE))
    _on("cuda", line, seed)
    first, second, host = (_on(device, line, seed) for device in ("cuda", "cuda", "cpu"))
    assert torch.equal(first, second)
    # Nearest neighbours, medians and classes may fall to either side.
    close = torch.isclose(first.cpu(), host, rtol=1e-2, atol=2e-2)
    assert close.float().mean() > 0.99


@pytest.mark.parametrize("seed", range(3))
def test_a_preset_makes_the_host_wait_nowhere(seed: int) -> None:
    line = Pipeline("shift", context(SHAPE))
    _on("cuda", line, seed)
    first, second = (_on("cuda", line, seed) for _ in range(2))
    assert torch.equal(first, second)
