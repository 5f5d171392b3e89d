"""`nnUNetv2_spine_reference`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from nnunet_spine_ext.cli.shell import add_json_option, make_parser, run

PROG = "nnUNetv2_spine_reference"
FUNCTION = "nnunet_spine_ext.training.reference:reference"
_DESCRIPTION = """Give a trained model the intensity reference that matching needs (nnUNetv2_spine_predict --match).

Trainers of this package store it by themselves. This is for stock nnU-Net models and for models of earlier versions:
give the images that the model was trained on, and their masks for --match anchored. It is written into the model's
plans.json; weights and stock commands are not affected."""
EXAMPLES = """  nnUNetv2_spine_reference -m MODEL_FOLDER -i Dataset501_SPIDER/imagesTr -l Dataset501_SPIDER/labelsTr
  nnUNetv2_spine_reference -m MODEL_FOLDER -i imagesTr --contrast T2w
  nnUNetv2_spine_reference -m MODEL_FOLDER -i imagesTr -l labelsTr --dry-run --json"""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser; its destinations are the parameters of `training.reference.reference`."""
    parser = make_parser(PROG, _DESCRIPTION, EXAMPLES)
    parser.add_argument("-m", required=True, metavar="MODEL", help="folder of the trained model")
    parser.add_argument("-i", required=True, metavar="IMAGES", help="folder of its training images, such as imagesTr")
    parser.add_argument(
        "-l",
        "--labels",
        dest="labels",
        metavar="MASKS",
        help="folder of their masks, such as labelsTr: what --match anchored needs (default: the body alone)",
    )
    parser.add_argument(
        "--contrast", help="of the images, such as T2w (default: what cases.json beside them, or their BIDS name, says)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace a reference")
    parser.add_argument("--dry-run", action="store_true", help="compute and show, write nothing")
    add_json_option(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    return run(build_parser(), FUNCTION, argv)
