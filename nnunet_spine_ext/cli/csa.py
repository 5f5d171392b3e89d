"""nnUNetv2_spine_csa: cross-sectional area of the spinal cord."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from nnunet_spine_ext.cli.shell import add_json_option, make_parser, run

PROG = "nnUNetv2_spine_csa"
FUNCTION = "nnunet_spine_ext.measure.csa_run:csa"
_DESCRIPTION = """Measure the cross-section of the spinal cord: area, tilt, diameters, per slice or vertebral level.

Takes masks, soft maps (0 to 1) and label maps in any orientation; nothing is thresholded. Mode sct gives the numbers of
the Spinal Cord Toolbox, mode pv the physical sum over partial volumes. Vertebrae are numbered 1 C1, 8 T1, 20 L1."""
_EXAMPLES = f"""  {PROG} -i cord.nii.gz -o area.csv
  {PROG} -i out/soft -o area.csv --mode pv --qc pictures
  # C2 to C3 as one number per case, levels from disc points of the Spinal Cord Toolbox
  {PROG} -i cords -o c2c3.csv --discs labels --level-range 2:3
  # the second class of soft maps of several
  {PROG} -i out/soft -o area.csv --mode pv --class 2
  # every level, levels from the instances of a prediction whose class 11 is the cord
  {PROG} -i out -o levels.csv --label 11 --instances out/instances --perlevel"""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser."""
    parser = make_parser(PROG, _DESCRIPTION, _EXAMPLES)
    add_json_option(parser)
    files = parser.add_argument_group("files")
    files.add_argument("-i", required=True, metavar="PATH", help="a mask or soft map of the cord, or a folder of them")
    files.add_argument("-o", required=True, metavar="CSV", help="table to write; a record of the run goes beside it")
    files.add_argument("--qc", metavar="DIR", help="folder for a picture per case: area along the cord")
    files.add_argument("--prefer", choices=("sform", "qform"), help="which to use where the two disagree")
    files.add_argument("--strict", action="store_true", help="treat warnings about files as errors")
    files.add_argument("--dry-run", action="store_true", help="list the cases, read and write nothing")
    how = parser.add_argument_group("how")
    how.add_argument(
        "--mode",
        choices=("sct", "pv"),
        default="sct",
        help="sct: as the Spinal Cord Toolbox; pv: sum of partial volumes (default: sct)",
    )
    how.add_argument("--label", type=int, metavar="ID", help="the cord's label, where the masks have several")
    how.add_argument(
        "--class",
        dest="soft_class",
        type=int,
        metavar="N",
        help="the cord's class in soft maps of several classes (4-D), counted from 1 in the order of the label ids",
    )
    how.add_argument(
        "--centreline", metavar="PATH", help="mask of a centreline or another cord that gives the tilt (file or folder)"
    )
    how.add_argument(
        "--smoothing",
        type=float,
        default=30.0,
        metavar="X",
        help="of the centreline, in the Spinal Cord Toolbox' unit (default: 30)",
    )
    how.add_argument("--no-angle-correction", action="store_true", help="measure in the plane of the slices")
    how.add_argument(
        "--area-only", action="store_true", help="leave out diameters, orientation and solidity: much faster"
    )
    _add_levels(parser)
    return parser


def _add_levels(parser: argparse.ArgumentParser) -> None:
    levels = parser.add_argument_group("vertebral levels (files, or folders with the case names of -i)")
    levels.add_argument("--levels", metavar="PATH", help="labelled cords: their values are levels")
    levels.add_argument(
        "--discs", metavar="PATH", help="discs as single voxels (3 is C2/C3), or points of vertebrae and discs (.json)"
    )
    levels.add_argument("--instances", metavar="PATH", help="numbered instances (vertebra n, disc 100+n)")
    levels.add_argument("--perlevel", action="store_true", help="a row per level instead of per slice")
    levels.add_argument(
        "--level-range",
        metavar="LEVELS",
        help="average these levels (2:3, C2:C3 or 3,5) to one row; with --perlevel to one row each",
    )
    levels.add_argument(
        "--ddof",
        type=int,
        choices=(0, 1),
        default=0,
        help="standard deviation of the slices (0, as the Spinal Cord Toolbox) or of a sample (1) (default: 0)",
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return the exit code."""
    return run(build_parser(), FUNCTION, argv)
