"""`nnUNetv2_spine_merge_annotations`: masks of several origins become one mask of 14 classes."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from nnunet_spine_ext.cli.shell import add_json_option, make_parser, run

PROG = "nnUNetv2_spine_merge_annotations"
FUNCTION = "nnunet_spine_ext.dataset_conversion.merge:merge_annotations"

_EXAMPLES = f"""  # manual bodies, discs, canal, sacrum; the cord of another tool; substructures translated from CT
  {PROG} -o merged \\
      --source manual corpus=1 disc=2 canal=3 sacrum=4 \\
      --source cords cord=1 \\
      --source translated spineps
  # other file names, codes of SPINEPS, gaps up to 2 mm, first a look
  {PROG} -o merged --target spineps --endplate-gap 2 --dry-run \\
      --source '/data/manual/{{case}}_label.nii.gz' map.yaml \\
      --source '/data/sct/{{case}}/t2_seg.nii.gz' cord=1"""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser."""
    parser = make_parser(
        PROG,
        "Merge masks of the same scans from several sources. What an earlier source labels stays; the cord replaces\n"
        "the canal it lies in; gaps between bodies and discs become endplates. Contradictions are counted.",
        _EXAMPLES,
    )
    parser.add_argument("-o", required=True, metavar="DIR", help="folder for the masks, conflicts.csv and merge.json")
    parser.add_argument(
        "--source",
        nargs="+",
        action="append",
        required=True,
        metavar=("DIR", "MAP"),
        help="a folder of masks (or a quoted pattern with {case}), then what their ids mean: a label scheme, "
        "name=id[,id] words with the names of nnunet14, or a YAML file; repeat it, the most trusted source first",
    )
    parser.add_argument(
        "--target", choices=("nnunet14", "spineps"), default="nnunet14", help="ids of the results (default: nnunet14)"
    )
    parser.add_argument(
        "--endplate-gap",
        type=float,
        default=3.0,
        metavar="MM",
        help="gaps between bodies and discs up to this width become endplate (default: 3; 0: none)",
    )
    parser.add_argument(
        "--resample", choices=("nearest",), help="resample masks that lie on another grid than the first"
    )
    parser.add_argument("--prefer", choices=("sform", "qform"), help="which to use where the two disagree")
    parser.add_argument("--strict", action="store_true", help="treat warnings about files as errors")
    parser.add_argument("--overwrite", action="store_true", help="replace results that are there")
    parser.add_argument("--dry-run", action="store_true", help="merge and count everything, write nothing")
    add_json_option(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    return run(build_parser(), FUNCTION, argv)
