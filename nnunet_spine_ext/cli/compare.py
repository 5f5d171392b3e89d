"""nnUNetv2_spine_compare: which of several evaluations is better, and could it be chance."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from nnunet_spine_ext.cli.shell import add_json_option, make_parser, run
from nnunet_spine_ext.evaluate.registry import METRICS

PROG = "nnUNetv2_spine_compare"
FUNCTION = "nnunet_spine_ext.evaluate.compare:compare"
_DESCRIPTION = """Compare evaluations of the same references, pair by pair.

Every metric and label is tested by the two-sided Wilcoxon signed-rank test over subjects, corrected for the number of
tests, with effect sizes. Writes comparison.csv, .json, .md and .tex. Cases that one folder lacks are listed and make
the exit code 3."""
_EXAMPLES = """  nnUNetv2_spine_compare -a baseline/evaluation -b ours/evaluation -o comparison
  nnUNetv2_spine_compare -a baseline -b ours other -o comparison --names nnU-Net ours other --metrics dice assd
  nnUNetv2_spine_compare -a baseline -b ours -o comparison --by manufacturer --correction bonferroni --missing worst"""
_SCOPES = ("overall", "class", "group", "level", "region")


def build_parser() -> argparse.ArgumentParser:
    """Return the parser."""
    parser = make_parser(PROG, _DESCRIPTION, _EXAMPLES)
    add_json_option(parser)
    files = parser.add_argument_group("what is compared")
    files.add_argument("-a", required=True, metavar="EVAL", help="folder of nnUNetv2_spine_evaluate: the baseline")
    files.add_argument("-b", required=True, nargs="+", metavar="EVAL", help="folders that are compared with it")
    files.add_argument("-o", required=True, metavar="OUT", help="folder for the tables")
    files.add_argument(
        "--names", nargs="+", default=(), metavar="NAME", help="what they are called, first -a (default: folder names)"
    )
    files.add_argument(
        "--metrics", nargs="+", choices=tuple(METRICS), default=(), metavar="NAME", help="default: all that they share"
    )
    files.add_argument(
        "--scopes",
        nargs="+",
        choices=_SCOPES,
        default=_SCOPES[:3],
        metavar="SCOPE",
        help=f"some of {' '.join(_SCOPES)} (default: {' '.join(_SCOPES[:3])})",
    )
    _add_statistics(parser)
    return parser


def _add_statistics(parser: argparse.ArgumentParser) -> None:
    how = parser.add_argument_group("statistics")
    how.add_argument(
        "--unit",
        choices=("subject", "case"),
        default="subject",
        help="subject: the cases of a subject are averaged first (default: subject)",
    )
    how.add_argument(
        "--missing",
        choices=("exclude", "worst"),
        default="exclude",
        help="cases that a folder lacks, and infinite values: left out, or counted as failures (default: exclude)",
    )
    how.add_argument(
        "--correction", choices=("holm", "bonferroni", "none"), default="holm", help="over all tests (default: holm)"
    )
    how.add_argument("--by", metavar="KEY", help="test every value of a fact in cases.json on its own as well")
    how.add_argument(
        "--cases", metavar="FILE", help="cases.json with subjects and facts; default: what the evaluations recorded"
    )
    how.add_argument(
        "--bootstrap",
        type=int,
        default=1000,
        metavar="N",
        help="resamples for the 95 %% interval of the mean difference; 0: none (default: 1000)",
    )
    how.add_argument("--seed", type=int, default=0, metavar="N", help="seed of the resampling (default: 0)")
    how.add_argument(
        "--latex",
        choices=("mean", "median"),
        default="mean",
        help="cells of comparison.tex: mean and sd, or median and quartiles (default: mean)",
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return the exit code."""
    return run(build_parser(), FUNCTION, argv)
