"""What entries of another tool have in common: channels, the part of the image they act on, blending, statistics."""

from __future__ import annotations

from typing import Any

from nnunet_spine_ext.augment.migrate_block import Block, Made, Part, Settings, once, split

COMMON: Settings = {"p": 1.0, "p_batch": 1.0, "same_on_batch": False, "keepdim": True}
REGION: Settings = {"in_seg": 0.0, "out_seg": 0.0, "mix_in_out": False}
CHANNEL: Settings = {**COMMON, "apply_to_channel": [0]}
MIX: Settings = {"mix_prob": 0.0}
VALUES: Settings = {**CHANNEL, **REGION, "retain_stats": False}

_EVERYWHERE = "acts on the whole image, not inside or outside labels alone"


def channels(block: Block) -> Settings:
    """Return the channels; each is drawn for itself, as there."""
    chosen = block.integers("apply_to_channel")
    return {"channels": chosen, "per_channel": len(chosen) > 1}


def where(block: Block) -> Settings:
    """Return where a transform acts.

    There two coins are thrown, one for the inside of labels and one for the outside; both or neither mean everywhere.
    With `mix_in_out` a random half of the labels stands for all of them.
    """
    inside, outside = block.chance("in_seg"), block.chance("out_seg")
    only_in, only_out = inside * (1 - outside), outside * (1 - inside)
    mixed = block.flag("mix_in_out")
    if only_in == only_out == 0:
        return {}
    if not mixed:
        shares = {"in_labels": only_in, "out_labels": only_out}
        return {"where": {place: round(share, 6) for place, share in shares.items() if share > 0}}
    if abs(only_in - only_out) > 1e-9:
        block.remark("background is drawn like a label, not as often as in_seg and out_seg say")
    return {"where": {"random_labels": round(only_in + only_out, 6)}}


def on_values(block: Block, name: str, **settings: Any) -> list[Made]:
    """Convert an entry to a transform that knows labels, mixing and statistics."""
    common = {**channels(block), **where(block)}
    if "retain_stats" in block.defaults:
        common["retain_stats"] = block.flag("retain_stats")
    part = Part(name, {**common, **settings})
    mixed = block.chance("mix_prob") if "mix_prob" in block.defaults else 0.0
    return [Made(block.p(), split(part, (1 - mixed, {"mix": 1.0}), (mixed, {"mix": [0.0, 1.0]})))]


def on_volume(block: Block, name: str, **settings: Any) -> list[Made]:
    """Convert an entry to a transform that knows labels, but neither mixing nor statistics."""
    return _unmixed(block, name, {**channels(block), **where(block), **settings})


def on_image(block: Block, name: str, **settings: Any) -> list[Made]:
    """Convert an entry to a transform that acts on the whole image."""
    if max(block.chance("in_seg"), block.chance("out_seg")) > 0:
        block.remark(_EVERYWHERE)
    if "mix_in_out" in block.defaults:
        block.flag("mix_in_out")
    return _unmixed(block, name, {**channels(block), **settings})


def _unmixed(block: Block, name: str, settings: Settings) -> list[Made]:
    if "retain_stats" in block.defaults and block.flag("retain_stats"):
        block.remark("mean and spread are not restored afterwards")
    if "mix_prob" in block.defaults and block.chance("mix_prob") > 0:
        block.remark("is not blended with the original")
    return once(block.p(), name, settings)
