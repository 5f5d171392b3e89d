"""`nnUNetv2_spine_report`: one HTML file about a prediction folder."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from nnunet_spine_ext.cli.shell import add_json_option, make_parser, run

PROG = "nnUNetv2_spine_report"
FUNCTION = "nnunet_spine_ext.report.build:report"
EXAMPLES = """  nnUNetv2_spine_report out
  nnUNetv2_spine_report out --evaluation scores --title "Lumbar T2w, fold 0"
  nnUNetv2_spine_report out -i images -o /tmp/report.html --max-size 20
  nnUNetv2_spine_report corrected -i images --before out --figures figures"""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser."""
    parser = make_parser(
        PROG,
        "Write one self-contained HTML file about a prediction folder: a table to sort and to mark, plots, overlays in "
        "three planes, warnings, scores. "
        "It opens from disk, loads nothing from any network and shows no absolute paths.",
        EXAMPLES,
    )
    add_json_option(parser)
    parser.add_argument("out", metavar="OUT", help="folder with predicted masks (of our predict command or of nnU-Net)")
    parser.add_argument("-i", metavar="IMAGES", help="folder of the images; default: where the run found them")
    parser.add_argument(
        "--evaluation", metavar="DIR", help="output folder of nnUNetv2_spine_evaluate; default: no scores"
    )
    parser.add_argument(
        "--before",
        metavar="DIR",
        help="folder of earlier masks of the same cases, shown against those in OUT; default: none",
    )
    parser.add_argument(
        "--figures",
        metavar="DIR",
        help="also write the plots as SVG and PNG and the planes of each case as PNG into this folder",
    )
    parser.add_argument("--title", metavar="TEXT", help="heading; default: Spine segmentation report")
    parser.add_argument("-o", metavar="FILE", help="file to write; default: OUT/report.html")
    parser.add_argument(
        "--max-size", metavar="MB", type=float, default=60.0, help="largest file size in MB; default: %(default)g"
    )
    parser.add_argument(
        "--show-paths",
        action="store_true",
        help="show absolute paths and names of machine and user; default: file names only",
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, run, return the exit code."""
    return run(build_parser(), FUNCTION, argv)
