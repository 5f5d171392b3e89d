"""`nnUNetv2_spine_demo`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from nnunet_spine_ext.cli.shell import add_json_option, make_parser, run

PROG = "nnUNetv2_spine_demo"
FUNCTION = "nnunet_spine_ext.training.demo:demo"
EXAMPLES = """  nnUNetv2_spine_demo -o demo
  nnUNetv2_spine_demo -o demo --n 40 --epochs 60 -device cuda"""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser; its destinations are the parameters of `training.demo.demo`."""
    parser = make_parser(
        PROG,
        "Make phantoms, train on some, predict others, separate and score their vertebrae, and write a report: the "
        "main job end to end, through the commands you would type. Takes about 8 minutes on two cores.",
        EXAMPLES,
    )
    parser.add_argument("-o", default="demo", metavar="FOLDER", help="where everything goes (default: %(default)s)")
    parser.add_argument("--n", type=int, default=24, help="spines to train on (default: %(default)s)")
    parser.add_argument("--n-test", type=int, default=3, help="spines to test on (default: %(default)s)")
    parser.add_argument("--epochs", type=int, help="length of the training (default: the demo preset's)")
    parser.add_argument("-device", "--device", default="cpu", help="where to train and predict (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the phantoms (default: %(default)s)")
    add_json_option(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    return run(build_parser(), FUNCTION, argv)
