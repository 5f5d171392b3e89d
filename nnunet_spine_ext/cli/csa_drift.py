"""nnUNetv2_spine_csa_drift: has the cord's area changed from one model to another."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from nnunet_spine_ext.cli.evaluate import add_area_options
from nnunet_spine_ext.cli.shell import add_json_option, make_parser, run
from nnunet_spine_ext.core.labels import SCHEMES

PROG = "nnUNetv2_spine_csa_drift"
FUNCTION = "nnunet_spine_ext.evaluate.cord.drift:csa_drift"
_DESCRIPTION = """Compare the cross-sectional area of the cord in two models' predictions of the same images.

Mean difference, limits of agreement and an equivalence test per contrast and over all, the images that changed, and
plots: csa_drift.md, .csv, .json. With references the models' errors are compared too. A difference alone does not
change the exit code; --fail-above does."""
_EXAMPLES = f"""  {PROG} -a out_v1 -b out_v2 -o report --cases cases.json
  {PROG} -a out_v1 -b out_v2 -o report --ref softLabelsTs --discs discs --level-range C2:C3
  {PROG} -a out_v1 -b out_v2 -o report --cases subjects.csv --margin 1 --fail-above 1"""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser."""
    parser = make_parser(PROG, _DESCRIPTION, _EXAMPLES)
    add_json_option(parser)
    files = parser.add_argument_group("what is compared")
    files.add_argument("-a", required=True, metavar="DIR", help="predictions of the older model")
    files.add_argument("-b", required=True, metavar="DIR", help="predictions of the newer model")
    files.add_argument("-o", required=True, metavar="OUT", help="folder for the report")
    files.add_argument("-ref", "--ref", metavar="DIR", help="soft maps, masks, or a table of areas (.csv, .tsv)")
    files.add_argument(
        "--names", nargs="+", default=(), metavar="NAME", help="what they are called, first -a (default: folder names)"
    )
    files.add_argument(
        "--cases", metavar="FILE", help="cases.json, or a table with case, subject and contrast (default: beside -ref)"
    )
    files.add_argument("--labels", metavar="FILE", help="dataset.json, or JSON with names and ids")
    files.add_argument("--scheme", choices=sorted(SCHEMES), help="label scheme; default: dataset.json beside the masks")
    files.add_argument(
        "--resample", choices=("nearest",), help="bring maps from other grids onto the first one's (soft: linearly)"
    )
    areas = parser.add_argument_group("cross-sectional area")
    add_area_options(areas)
    areas.add_argument("--instances", metavar="DIR", help="numbered instances (vertebra n, disc 100+n)")
    verdict = parser.add_argument_group("verdict")
    verdict.add_argument(
        "--changed-above", type=float, metavar="MM2", help="images that differ by more are listed (default: --margin)"
    )
    verdict.add_argument(
        "--fail-above",
        type=float,
        metavar="MM2",
        help="exit code 3 when the mean difference of a contrast, or of all, is larger (default: never)",
    )
    verdict.add_argument(
        "--bootstrap", type=int, default=1000, metavar="N", help="resamples of the subjects; 0: none (default: 1000)"
    )
    verdict.add_argument("--seed", type=int, default=0, metavar="N", help="seed of the resampling (default: 0)")
    parser.add_argument_group("speed").add_argument(
        "--jobs", type=int, default=1, metavar="N", help="processes; each holds one case in memory (default: 1)"
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return the exit code."""
    return run(build_parser(), FUNCTION, argv)
