"""What to do with an earlier training in a folder: go on with it, or start anew, not both."""

from __future__ import annotations

from nnunet_spine_ext.core.errors import UsageError


def refuse_both(*, resume: bool, overwrite: bool) -> None:
    """Raise UsageError when a training is to go on and to start anew: either of them, done silently, may be wrong."""
    if resume and overwrite:
        raise UsageError(
            "E-TRAIN-BOTH",
            file="--resume --overwrite",
            found="both",
            expected="one of them: --resume goes on with a training, --overwrite starts anew",
            fix="leave one out",
        )
