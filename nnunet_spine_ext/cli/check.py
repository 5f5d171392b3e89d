"""`nnUNetv2_spine_check`: look for files that would fail or, worse, pass unnoticed."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from nnunet_spine_ext.cli.shell import add_json_option, make_parser, run

PROG = "nnUNetv2_spine_check"
FUNCTION = "nnunet_spine_ext.check.run:check"

_EXAMPLES = """  nnUNetv2_spine_check scan.nii.gz
  nnUNetv2_spine_check scans/ --strict
  nnUNetv2_spine_check 'data/*/t2_seg.nii.gz' --role label
  nnUNetv2_spine_check nnUNet_raw/Dataset501_SPIDER --jobs 2
  nnUNetv2_spine_check scans/ --json > findings.json"""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser; its destinations are the parameters of `check.run.check`."""
    parser = make_parser(
        PROG,
        "Look at every file once, from the first byte to the last: truncated and damaged files, pointers, wrong "
        "geometry, colour, NaN, constant images. In an nnU-Net raw dataset also names, tables, splits and grids.",
        _EXAMPLES,
    )
    parser.add_argument(
        "paths", nargs="+", metavar="PATH", help="file, folder (with its sub-folders), quoted pattern or raw dataset"
    )
    parser.add_argument(
        "--role",
        default="auto",
        choices=("auto", "image", "training", "label"),
        help="what the files are for; auto: by nnU-Net's folder names, else image (default: auto)",
    )
    parser.add_argument("--strict", action="store_true", help="warnings are errors")
    parser.add_argument(
        "--prefer", choices=("sform", "qform"), default=None, help="which to follow where qform and sform disagree"
    )
    parser.add_argument(
        "--jobs", type=int, default=1, metavar="N", help="files looked at at the same time (default: 1)"
    )
    add_json_option(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run(build_parser(), FUNCTION, argv)
