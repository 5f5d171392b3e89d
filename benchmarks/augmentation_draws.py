"""Properties of the augmentation over many draws: nothing infinite, equal seeds equal bits, neighbours do not matter.

    python benchmarks/augmentation_draws.py --out bench/augmentation_draws
    python benchmarks/augmentation_draws.py --quick --out bench/augmentation_draws

All transforms take part, each with a small probability in random order, and the preset `shift`. Patches are small, so
that many can be drawn; images are what is hard: constant, only air, single voxels of a label, half precision, times
10^4, a span of 10^-20.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nnunet_spine_ext.augment.config import AugmentConfig
from nnunet_spine_ext.augment.context import Context
from nnunet_spine_ext.augment.keys import SampleKey
from nnunet_spine_ext.augment.pipeline import Pipeline, Plan
from nnunet_spine_ext.augment.selective import Selective
from nnunet_spine_ext.augment.transform import registry

DRAWS = 100_000
QUICK = 2000
REPEATED = 1000
BATCH = 8
SHAPES = ((8, 16, 16), (20, 24))
KINDS = ("tissue", "constant", "air", "spike", "single", "huge", "narrow", "tiny", "offset", "steps")
HALF_EVERY = 5
"""Every fifth batch is in half precision."""


def context(shape: Sequence[int]) -> Context:
    """Return patches of 15 labels, two of them left and right, cut from larger ones."""
    source = tuple(n + 4 for n in shape)
    spacing = (3.3, 0.9, 0.9)[-len(shape) :]
    return Context(tuple(shape), spacing, source, 1, range(15), ((2, 3), (4, 5)), len(shape) - 1)


def everything(p: float = 0.12) -> AugmentConfig:
    """Return all transforms, each with probability p, in random order, within labels or not."""
    listed: list[dict[str, Any]] = []
    for name, cls in registry().items():
        item: dict[str, Any] = {"name": name, "p": p}
        if issubclass(cls, Selective):
            item["where"] = {"in_labels": 0.2, "out_labels": 0.1, "random_labels": 0.2}
            item["mix"] = {"choice": [0.3, 1.0]}
        listed.append(item)
    return AugmentConfig.from_dict({"order": "random", "transforms": listed})


def pipelines() -> dict[str, Callable[[Context], Pipeline]]:
    """Return what is tested, by name."""
    return {"everything": lambda facts: Pipeline(everything(), facts), "shift": lambda facts: Pipeline("shift", facts)}


def hard_image(kind: str, shape: Sequence[int], seed: int) -> tuple[Tensor, Tensor]:
    """Return an image and its labels, both (1, 1, *shape), of one of `KINDS`."""
    generator = torch.Generator().manual_seed(seed)
    size = (1, 1, *shape)
    labels = (torch.arange(shape[-2]) * 15 // shape[-2])[:, None].expand(*size).clone().to(torch.int16)
    labels[..., : shape[-1] // 4] = 0
    labels[..., 0, :] = -1
    noise = torch.randn(size, generator=generator)
    image = torch.where(labels > 0, 0.3 + 0.2 * labels + 0.1 * noise, 0.05 * noise.abs()).float()
    if kind == "single":
        place = torch.randint(labels.numel(), (15,), generator=generator)
        labels.zero_().flatten()[place] = torch.arange(15, dtype=torch.int16)
    spike = torch.zeros(size)
    spike.flatten()[int(torch.randint(spike.numel(), (1,), generator=generator))] = 1e4
    images = {
        "constant": torch.full(size, 3.0), "air": torch.zeros(size), "spike": spike, "huge": image * 1e4,
        "narrow": 1 + image * 1e-20, "tiny": image * 1e-20, "offset": image + 1e4, "steps": image.round(),
    }  # fmt: skip
    return images.get(kind, image), labels


def hard_batch(shape: Sequence[int], number: int) -> tuple[Tensor, Tensor]:
    """Return BATCH images of changing kinds and their labels; every fifth batch in half precision."""
    pairs = [hard_image(KINDS[(number * 3 + i) % len(KINDS)], shape, number * BATCH + i) for i in range(BATCH)]
    image, labels = (torch.cat(parts) for parts in zip(*pairs, strict=True))
    return (image.half() if number % HALF_EVERY == 0 else image), labels


def keys(number: int, *, seed: int = 11) -> list[SampleKey]:
    """Return the keys of a batch."""
    return [SampleKey(seed, f"case{number % 37}", number, i, number) for i in range(BATCH)]


def count_not_finite(draws: int, name: str, *, first: int = 0) -> dict[str, Any]:
    """Augment `draws` hard patches and count those with a voxel that is not finite."""
    wrong: list[dict[str, Any]] = []
    fired: dict[str, int] = {}
    lines = [pipelines()[name](context(shape)) for shape in SHAPES]
    batches = -(-draws // BATCH)
    for number in range(first, first + batches):
        line = lines[number % len(SHAPES)]
        image, labels = hard_batch(line.context.source, number)
        plan = line.plan(keys(number))
        result, _ = line.apply(image, labels, plan)
        for index in range(BATCH):
            for item in plan.samples[index]:
                fired[item.name] = fired.get(item.name, 0) + 1
            if not result[index].isfinite().all():
                wrong.append({"batch": number, "index": index, "fired": [item.name for item in plan.samples[index]]})
    return {"draws": batches * BATCH, "not_finite": len(wrong), "where": wrong[:20], "fired": fired}


def _patches(draws: int, name: str) -> Iterator[tuple[Pipeline, Pipeline, Tensor, Tensor, list[SampleKey], int]]:
    """Yield two pipelines made apart, images, labels and keys, and a number, `draws` times."""
    first, second = ([pipelines()[name](context(shape)) for shape in SHAPES] for _ in range(2))
    for number in range(draws):
        line, other = (lines[number % len(SHAPES)] for lines in (first, second))
        image, labels = hard_batch(line.context.source, number)
        yield line, other, image[:3], labels[:3], keys(number)[:3], number


def count_equal(draws: int, name: str) -> dict[str, int]:
    """Count batches that come out the same bit by bit: again, from another pipeline, from their record."""
    equal = {"again": 0, "replayed": 0}
    for line, other, image, labels, own, _ in _patches(draws, name):
        plan = line.plan(own)
        result, moved = line.apply(image, labels, plan)
        again, again_moved = other(image, labels, own)
        replay = Plan.from_record(json.loads(json.dumps(plan.record)))
        replayed, replayed_moved = line.apply(image, labels, replay)
        equal["again"] += _same((result, moved), (again, again_moved))
        equal["replayed"] += _same((result, moved), (replayed, replayed_moved))
    return equal


def count_undisturbed(draws: int, name: str) -> int:
    """Count patches that come out the same bit by bit beside other patches that get other transforms."""
    count = 0
    for line, _, image, labels, own, number in _patches(draws, name):
        place = number % 3
        result, moved = line(image, labels, own)
        beside, beside_labels = hard_batch(line.context.source, number + 10**6)
        beside, beside_labels = beside[:3].to(image.dtype), beside_labels[:3]
        others = keys(number + 10**6)[:3]
        beside[place], beside_labels[place], others[place] = image[place], labels[place], own[place]
        changed, changed_labels = line(beside, beside_labels, others)
        count += _same((result[place], moved[place]), (changed[place], changed_labels[place]))  # type: ignore[index]
    return count


def _same(first: tuple[Tensor, Tensor | None], second: tuple[Tensor, Tensor | None]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True) if a is not None and b is not None)


def measure(draws: int, repeated: int) -> dict[str, Any]:
    """Return all counts and what they were counted with."""
    start = time.process_time()
    result: dict[str, Any] = {"draws": draws, "repeated": repeated, "pipelines": {}}
    for name in pipelines():
        began = time.process_time()
        result["pipelines"][name] = {
            "finite": count_not_finite(draws // 2, name),
            "equal": count_equal(repeated, name),
            "undisturbed": count_undisturbed(repeated, name),
            "cpu_s": round(time.process_time() - began, 1),
        }
    result |= {
        "shapes": SHAPES, "batch": BATCH, "kinds": KINDS,
        "torch": torch.__version__, "python": platform.python_version(), "processor": platform.machine(),
        "threads": torch.get_num_threads(), "cpu_s": round(time.process_time() - start, 1),
    }  # fmt: skip
    return result


def main() -> int:
    """Run, write the counts, and fail when one is not what it has to be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help=f"{QUICK} draws instead of {DRAWS}")
    parser.add_argument("--out", type=Path, required=True, help="folder for augmentation_draws.json")
    args = parser.parse_args()
    torch.set_num_threads(1)
    result = measure(QUICK if args.quick else DRAWS, REPEATED // (10 if args.quick else 1))
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "augmentation_draws.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    good = True
    for name, found in result["pipelines"].items():
        finite, equal, undisturbed = found["finite"], found["equal"], found["undisturbed"]
        repeated = result["repeated"]
        sys.stdout.write(
            f"{name}: not finite {finite['not_finite']} of {finite['draws']}, again {equal['again']}/{repeated}, "
            f"replayed {equal['replayed']}/{repeated}, beside others {undisturbed}/{repeated}, {found['cpu_s']} s CPU\n"
        )
        good = good and finite["not_finite"] == 0 and {*equal.values(), undisturbed} == {repeated}
    return 0 if good else 1


if __name__ == "__main__":
    raise SystemExit(main())
