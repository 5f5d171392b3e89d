"""`nnUNetv2_spine_env`: shell lines that let nnU-Net find the trainers."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from nnunet_spine_ext.cli.shell import make_parser, run

PROG = "nnUNetv2_spine_env"
FUNCTION = "nnunet_spine_ext.check.environment:env"

_EXAMPLES = """  eval "$(nnUNetv2_spine_env)"
  nnUNetv2_spine_env >> ~/.bashrc"""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser; the function has no parameters."""
    return make_parser(
        PROG,
        "Print the shell line that adds our trainers to nnUNet_extTrainer, and as comments those of nnU-Net's folder "
        "variables that are not set.",
        _EXAMPLES,
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run(build_parser(), FUNCTION, argv)
