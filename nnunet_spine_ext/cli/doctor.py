"""`nnUNetv2_spine_doctor`: is everything here able to work?"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from nnunet_spine_ext.cli.shell import add_json_option, make_parser, run

PROG = "nnUNetv2_spine_doctor"
FUNCTION = "nnunet_spine_ext.check.doctor:doctor"

_EXAMPLES = """  nnUNetv2_spine_doctor
  nnUNetv2_spine_doctor --no-import
  nnUNetv2_spine_doctor -m nnUNet_results/Dataset501_SPIDER/nnUNetTrainerSpine__nnUNetPlans__3d_fullres
  nnUNetv2_spine_doctor --json > doctor.json"""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser; its destinations are the parameters of `check.doctor.doctor`."""
    parser = make_parser(
        PROG,
        "Look at versions, nnU-Net's folders, memory, shared memory and disk; ask nnU-Net for the trainers and PyTorch "
        "for devices. With -m also at a model folder: complete, and without foreign code in its checkpoints.",
        _EXAMPLES,
    )
    parser.add_argument(
        "-m",
        dest="model",
        metavar="MODEL",
        default=None,
        help="model folder to look at (with plans.json, dataset.json, fold_0); unset folder variables become warnings",
    )
    parser.add_argument(
        "--no-import",
        action="store_true",
        help="leave out what needs an import of torch or nnU-Net: under 2 s, without trainers, devices and checkpoints",
    )
    add_json_option(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run(build_parser(), FUNCTION, argv)
