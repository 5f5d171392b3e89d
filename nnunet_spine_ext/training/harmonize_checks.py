"""What a training of a harmonizer refuses before it reads a slice."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from nnunet_spine_ext.core.config import nearest
from nnunet_spine_ext.core.errors import UsageError
from nnunet_spine_ext.harmonize.cyclegan.settings import CycleGanSettings
from nnunet_spine_ext.harmonize.harmonizer import METHODS, MODEL_FILE, read_harmonizer

NETWORK = "cyclegan"
# Groups of settings that baselines look at; the second is theirs alone.
_OF_SLICES, _OF_BASELINES = "slices", "baseline"


def no_segmenter() -> UsageError:
    """Return the error for losses of a segmenter without one."""
    return UsageError(
        "E-HARM-SEGMENTER",
        file="--segmenter",
        found="none, but weights for target_dice, source_dice or floor",
        expected="a segmenter of target slices",
        fix="train one with nnUNetv2_spine_harmonize segmenter, or take the preset plain",
    )


def check_method(method: str, processes: int, settings: CycleGanSettings) -> None:
    """Raise UsageError for an unknown method, or processes that cannot share its work."""
    if method not in METHODS:
        raise UsageError(
            "E-CONFIG-VALUE", file="--method", found=repr(method), expected="a method", fix=nearest(method, METHODS)
        )
    if processes < 1 or settings.batch_size % processes or (processes > 1 and method != NETWORK):
        raise UsageError(
            "E-HARM-SHARE",
            file="-num_gpus",
            found=f"{processes} for {method} with batches of {settings.batch_size}",
            expected="a number that divides the batch size; 1 for a baseline",
            fix="change -num_gpus or batch_size",
        )


def refuse_unused(
    method: str, assignments: Sequence[str], segmenter: str | Path | None = None, *, where: str = "--set"
) -> None:
    """Raise UsageError for settings or a segmenter that a method does not use: who gives them means something by it.

    `where` is what messages call the place of the settings.
    """
    fitted = method != NETWORK
    for assignment in assignments:
        key = assignment.partition("=")[0].strip()
        group = key.partition(".")[0]
        unused = group not in (_OF_SLICES, _OF_BASELINES) if fitted else group == _OF_BASELINES
        if unused:
            others = f"{_OF_BASELINES}.* or {_OF_SLICES}.*" if fitted else f"settings of {NETWORK}"
            raise UsageError(
                "E-HARM-UNUSED",
                file=f"{where} {key}",
                found=f"a setting that method {method} does not use",
                expected=others,
                fix="leave it out" + (f", or train with --method {NETWORK}" if fitted else ", or choose a baseline"),
            )
    if fitted and segmenter is not None:
        raise UsageError(
            "E-HARM-UNUSED",
            file="--segmenter",
            found=f"a segmenter, which method {method} does not use",
            expected="none",
            fix=f"leave it out, or train with --method {NETWORK}",
        )


def refuse_existing(folder: Path, method: str, *, resume: bool) -> None:
    """Refuse to put a harmonizer in place of another; only an interrupted network can be gone on with."""
    from nnunet_spine_ext.harmonize.cyclegan.training import STATE_FILE

    is_model, begun = (folder / MODEL_FILE).is_file(), (folder / STATE_FILE).is_file()
    there = read_harmonizer(folder).method if is_model else NETWORK if begun else None
    if there is None or (resume and there == method == NETWORK):
        return
    goes_on = there == method == NETWORK
    raise UsageError(
        "E-TRAIN-EXISTS",
        file=folder,
        found=f"a harmonizer of an earlier training, method {there}",
        expected="a new folder" if goes_on else f"a new folder for method {method}: only networks are gone on with",
        fix=("--resume goes on with it, " if goes_on else "")
        + "--overwrite starts anew, -o or --name chooses another folder",
    )


def refuse_one_on_both_sides(target: Sequence[str], source: Sequence[str], key: str) -> None:
    """Raise UsageError for a scanner that is target and source."""
    both = sorted({name.lower() for name in target} & {name.lower() for name in source})
    if both:
        raise UsageError(
            "E-HARM-SIDES",
            file="--source",
            found=f"{key} {', '.join(both)} as target and as source",
            expected="each on one side",
            fix="name it once",
        )
