"""What to do with an earlier training in a folder: go on with it, or start anew, not both."""

from __future__ import annotations

from pathlib import Path

from nnunet_spine_ext.core.errors import UsageError


def other_training(folder: Path, differs: str, *, elsewhere: str = "-o or --name") -> UsageError:
    """Return the error for a state in a folder that is of another training than the one asked for.

    `differs`: in what. `elsewhere`: the options that name another folder.
    """
    return UsageError(
        "E-TRAIN-OTHER",
        file=folder,
        found=f"a training that differs in {differs}",
        expected="the settings and files it was started with",
        fix=f"give the same options, or start anew with --overwrite, or choose another folder with {elsewhere}",
    )


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
