"""nnUNetv2_spine_tables: the tables of the SPINEPS paper for any dataset."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from nnunet_spine_ext.cli.shell import add_json_option, make_parser, run
from nnunet_spine_ext.core.labels import SCHEMES

PROG = "nnUNetv2_spine_tables"
FUNCTION = "nnunet_spine_ext.evaluate.publication:tables"
_DESCRIPTION = """Write tables 2, 3 and 5 of Möller et al. 2024 (SPINEPS) for one or more prediction folders.

table 2: vertebra, disc and canal as a whole (DSC); vertebrae and discs one by one (DSC, RQ, SQ, PQ, ASSD)
table 3: whole structures (DSC) and parts of vertebrae (DSC, ASSD)
table 5: table 3 for the cervical, thoracic and lumbar part, for each folder

Each is written as CSV, Markdown and LaTeX: mean and sd over cases, the best value with an asterisk, Wilcoxon
signed-rank tests against the first folder, counts of values left out, and a caption that says what the numbers are."""
_EXAMPLES = """  nnUNetv2_spine_tables -ref labelsTs -pred out -o tables
  nnUNetv2_spine_tables -ref labelsTs -pred baseline raw post -o tables --names nnU-Net "ours, raw" ours
  nnUNetv2_spine_tables -ref labelsTs -pred a b -o tables --scheme nnunet14 --assd assd --jobs 4
  nnUNetv2_spine_tables -ref spider/labelsTs -pred a b -o tables --pred-labels same nnunet14
  nnUNetv2_spine_tables -pred tables/evaluations/1_a tables/evaluations/2_b -o again --correction bonferroni"""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser."""
    parser = make_parser(PROG, _DESCRIPTION, _EXAMPLES)
    add_json_option(parser)
    files = parser.add_argument_group("what is compared")
    files.add_argument("-ref", metavar="DIR", help="folder of reference masks; not needed for evaluations")
    files.add_argument(
        "-pred",
        required=True,
        nargs="+",
        metavar="DIR",
        help="folders of predictions, or of evaluations made with --structures; tests are against the first one",
    )
    files.add_argument("-o", required=True, metavar="OUT", help="folder for the tables")
    files.add_argument(
        "--names", nargs="+", default=(), metavar="NAME", help="what the folders are called (default: folder names)"
    )
    files.add_argument(
        "-ref-instances", "--ref-instances", metavar="DIR", help="default: instancesTr beside labelsTr, where it exists"
    )
    files.add_argument(
        "-pred-instances",
        "--pred-instances",
        nargs="+",
        default=(),
        metavar="DIR",
        help="one for each -pred (default: instances/ inside it, where it exists)",
    )
    _add_labels(parser)
    _add_numbers(parser)
    return parser


def _add_labels(parser: argparse.ArgumentParser) -> None:
    names = parser.add_argument_group("labels")
    names.add_argument("--labels", metavar="FILE", help="dataset.json, or JSON with names and ids")
    names.add_argument("--scheme", choices=sorted(SCHEMES), help="label scheme; default: dataset.json beside the masks")
    names.add_argument(
        "--pred-labels",
        nargs="+",
        default=(),
        metavar="WORD",
        help="labels of each -pred (scheme or file; same: as the references), or one for all (default: same)",
    )
    names.add_argument(
        "--structures",
        default="spineps",
        metavar="WORD",
        help="spineps, or a JSON file {name: [ids or label names]} (default: spineps)",
    )


def _add_numbers(parser: argparse.ArgumentParser) -> None:
    how = parser.add_argument_group("numbers")
    how.add_argument(
        "--assd",
        choices=("assd", "assd_voxel", "assd_in_voxels"),
        default="assd_voxel",
        help="assd: surfaces, mm; assd_voxel: boundary voxels as panoptica, mm; assd_in_voxels: the same in voxels "
        "(default: assd_voxel)",
    )
    how.add_argument(
        "--iou-threshold", type=float, default=0.5, metavar="X", help="smallest IoU of a match (default: 0.5)"
    )
    how.add_argument("--resample", choices=("nearest",), help="bring predictions from other grids onto the reference's")
    how.add_argument("--cases", metavar="FILE", help="cases.json with subjects; default: the one beside the references")
    how.add_argument(
        "--unit",
        choices=("subject", "case"),
        default="subject",
        help="of the tests; subject: the cases of a subject are averaged first (default: subject)",
    )
    how.add_argument(
        "--correction",
        choices=("holm", "bonferroni", "none"),
        default="holm",
        help="over all tests of a table (default: holm)",
    )
    how.add_argument("--jobs", type=int, default=1, metavar="N", help="processes; each holds one case (default: 1)")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return the exit code."""
    return run(build_parser(), FUNCTION, argv)
