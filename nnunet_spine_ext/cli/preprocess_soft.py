"""`nnUNetv2_spine_preprocess_soft`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from nnunet_spine_ext.cli.shell import add_json_option, make_parser, run

PROG = "nnUNetv2_spine_preprocess_soft"
FUNCTION = "nnunet_spine_ext.training.soft_files:preprocess_soft"
EXAMPLES = """  nnUNetv2_spine_preprocess_soft -d 501
  nnUNetv2_spine_preprocess_soft -d 501 -p spineSoft -c 3d_fullres 2d -np 8"""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser; its destinations are the parameters of `training.soft_files.preprocess_soft`."""
    parser = make_parser(
        PROG,
        "Bring softLabelsTr/ of a raw dataset to the grids of its preprocessed cases. The trainers of soft labels do "
        "it themselves when a file is missing or out of date; doing it ahead spares the time of the device.",
        EXAMPLES,
    )
    parser.add_argument("-d", required=True, help="dataset id or name (planned and preprocessed by nnU-Net)")
    parser.add_argument("-p", default="nnUNetPlans", help="plans (default: %(default)s)")
    parser.add_argument("-c", nargs="+", default=["3d_fullres"], help="configurations (default: 3d_fullres)")
    parser.add_argument(
        "-np", dest="num_processes", type=int, default=2, metavar="N", help="cases at the same time (default: 2)"
    )
    parser.add_argument("--overwrite", action="store_true", help="also those whose files are up to date")
    add_json_option(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    return run(build_parser(), FUNCTION, argv)
