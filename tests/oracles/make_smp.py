"""Count the parameters of table 2 of Kim et al. (IEEE Access 2024) with segmentation-models-pytorch itself.

    PYTHONPATH=. python tests/oracles/make_smp.py --fixture tests/fixtures/oracle_smp.json

`make smp` builds the environment and calls this. The networks are built by `networks/slice_unet.py`, so this is also
its test with the package itself; what is found about it is stored beside the numbers.
"""

from __future__ import annotations

import argparse
import json
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from nnunet_spine_ext.networks.slice_unet import SMP_ARCHITECTURES, SliceNetworkShape

PACKAGES = ("segmentation-models-pytorch", "timm", "torch", "torchvision")
ENCODERS = ("resnet34", "resnet50", "resnet101")


def facts_of(architecture: str, encoder: str) -> dict[str, Any]:
    """Count, and look at what the network makes of a slice whose sides are no multiples of anything."""
    shape = SliceNetworkShape(kind="smp", architecture=architecture, encoder=encoder)  # type: ignore[arg-type]
    torch.manual_seed(0)
    network = shape.build().eval()
    slices = (torch.rand(1, 1, 70, 45) * 255).requires_grad_()
    logits = network(slices)
    logits.sum().backward()
    return {
        "architecture": architecture,
        "encoder": encoder,
        "parameters": sum(p.numel() for p in network.parameters() if p.requires_grad),
        "output_shape": list(logits.shape),
        "gradient_reaches_slice": bool(slices.grad.abs().sum() > 0),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--fixture", type=Path, required=True)
    fixture = parser.parse_args().fixture
    torch.set_num_threads(1)
    content = {
        "command": "PYTHONPATH=. python tests/oracles/make_smp.py --fixture tests/fixtures/oracle_smp.json",
        "python": platform.python_version(),
        "versions": {name: version(name) for name in PACKAGES},
        "networks": [facts_of(a, e) for e in ENCODERS for a in SMP_ARCHITECTURES],
    }
    fixture.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
