"""`nnUNetv2_spine_convert`: make an nnU-Net raw dataset from images and masks."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from nnunet_spine_ext.cli import convert_nako, convert_pairs, convert_spider, convert_spine_generic
from nnunet_spine_ext.cli.shell import make_parser, run

PROG = "nnUNetv2_spine_convert"
FUNCTION = convert_pairs.FUNCTION
# One module per kind of source; each adds its sub-command.
SOURCES = (convert_pairs, convert_spider, convert_nako, convert_spine_generic)

_EXAMPLES = f"""  {PROG} pairs 501 --name Cord --images '/data/*/t2/t2.nii.gz' \\
      --labels '/data/*/t2/t2_seg.nii.gz' --label-map cord=1 --contrast T2w
  {PROG} spine_generic /data/data-multi-subject 511 --contrasts T1w T2w
  {PROG} nako /data/NAKO 521 --stitch
  {PROG} pairs --help"""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser with one sub-command per kind of source."""
    parser = make_parser(PROG, "Make an nnU-Net raw dataset from images and masks: all of it or nothing.", _EXAMPLES)
    sources = parser.add_subparsers(title="sources", required=True, metavar="SOURCE")
    for source in SOURCES:
        source.add_parser(sources)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    return run(build_parser(), FUNCTION, argv)
