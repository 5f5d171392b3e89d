"""`nnUNetv2_spine_soft_gt`: one soft label from several contrasts' or raters' masks."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from nnunet_spine_ext.cli.shell import add_json_option, make_parser, run

PROG = "nnUNetv2_spine_soft_gt"
FUNCTION = "nnunet_spine_ext.soft.run:soft_gt"

_DESCRIPTION = """Average the masks of several contrasts or raters of one subject into a soft label on each scan's grid.

Slices are shifted until their centres of mass fall together, averaged where scans cover them, and carried back. Where
fewer masks than --min-overlap say something, the label is -1 (ignore). Writes soft/<name>.nii.gz (float32),
union.nii.gz, coverage.nii.gz, qc.csv, qc.png and soft_gt.json."""
_EXAMPLES = f"""  {PROG} -i T1w=t1_seg.nii.gz T2w=t2_seg.nii.gz T2star=t2s_seg.nii.gz -o out --images T2w=t2.nii.gz
  # three raters of one image
  {PROG} -i anna=a.nii.gz ben=b.nii.gz cleo=c.nii.gz -o out --raters --method staple
  # a whole BIDS data set; goes on where it was ended
  {PROG} --bids /data/data-multi-subject -o out --reference T2w --resume
  # a list of subjects; outermost slices are drawn in part
  {PROG} --table masks.csv -o out --trim-mm 5 --rotation"""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser."""
    parser = make_parser(PROG, _DESCRIPTION, _EXAMPLES)
    parser.add_argument("-o", required=True, metavar="DIR", help="output folder; many subjects get a folder each")
    files = parser.add_argument_group("which masks (one of -i, --table, --bids)")
    files.add_argument(
        "-i",
        nargs="+",
        default=(),
        metavar="NAME=FILE",
        help="masks of one subject and their contrasts",
    )
    files.add_argument(
        "--images", nargs="+", default=(), metavar="NAME=FILE", help="scans to draw the masks on, in the picture only"
    )
    files.add_argument(
        "--table", metavar="FILE", help="CSV (subject,contrast,mask,image) or YAML (subject: {contrast: mask})"
    )
    files.add_argument("--bids", metavar="DIR", help="folder with sub-*: every mask that ends like --ending")
    files.add_argument(
        "--ending", default="label-SC_seg", metavar="NAME", help="what follows the image's name (default: label-SC_seg)"
    )
    files.add_argument("--label", type=int, metavar="ID", help="the id to take, where masks hold several")
    files.add_argument("--prefer", choices=("sform", "qform"), help="which to use where the two disagree")
    _add_method(parser)
    again = parser.add_argument_group("results that are there")
    again.add_argument("--resume", action="store_true", help="keep finished subjects whose files are unchanged")
    again.add_argument("--overwrite", action="store_true", help="replace them")
    add_json_option(parser)
    return parser


def _add_method(parser: argparse.ArgumentParser) -> None:
    how = parser.add_argument_group("how")
    how.add_argument(
        "--reference",
        metavar="NAME",
        help="the mask that the others are moved to (default: the one without long voxels; of equals T2w)",
    )
    how.add_argument("--raters", action="store_true", help="masks of one image, on its grid: nothing is moved")
    how.add_argument(
        "--method",
        choices=("average", "staple"),
        default="average",
        help="staple: of --raters only (default: average)",
    )
    how.add_argument("--rotation", action="store_true", help="turn slices too, for scans whose Dice gets better by it")
    how.add_argument(
        "--affine", action="store_true", help="also shear scans, keeping their area, where Dice gets better by it"
    )
    how.add_argument("--weights", nargs="+", default=(), metavar="NAME=W", help="weights in the average (default: 1)")
    how.add_argument(
        "--extent",
        choices=("seg", "fov"),
        default="seg",
        help="where a mask counts: between its outermost drawn slices, or in its whole field of view (default: seg)",
    )
    how.add_argument(
        "--trim-mm",
        type=float,
        default=0.0,
        metavar="MM",
        help="leave out at both ends of every mask (default: 0)",
    )
    how.add_argument(
        "--smooth-mm", type=float, default=4.0, metavar="MM", help="smooth shifts along the body; 0: not (default: 4)"
    )
    how.add_argument(
        "--min-overlap", type=int, default=2, metavar="N", help="fewer masks in a slice make it ignore (default: 2)"
    )
    how.add_argument(
        "--min-dice",
        type=float,
        default=0.7,
        metavar="X",
        help="a mask that agrees less with the average of the others is left out (default: 0.7)",
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    return run(build_parser(), FUNCTION, argv)
