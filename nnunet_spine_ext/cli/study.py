"""`nnUNetv2_spine_study`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from nnunet_spine_ext.cli.shell import add_json_option, make_parser, run

PROG = "nnUNetv2_spine_study"
FUNCTION = "nnunet_spine_ext.study.run:study"
_DESCRIPTION = """Measure what a model loses on other scanners, and what brings it back: six scanners by strategies,
components of the shift one by one and by twos, numbers of samples to fine-tune with. Trains what it needs on digital
spines that every scanner takes anew, or takes your own models and images. Writes cases.csv, vertebrae.csv, gaps.csv,
tables, figures and index.html, and prints the share of the gap that each strategy recovers, with its interval."""
EXAMPLES = """  nnUNetv2_spine_study --preset cpu -o study --jobs 2
  nnUNetv2_spine_study --preset full -o study -device cuda --jobs 2
  nnUNetv2_spine_study --preset full -o study -device cuda --jobs 2 --resume
  nnUNetv2_spine_study mine.yaml -o mine --set strategies="[none, match, tta]"
  nnUNetv2_spine_study --preset cpu -o study --dry-run"""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser; its destinations are the parameters of `study.run.study`."""
    parser = make_parser(PROG, _DESCRIPTION, EXAMPLES)
    parser.add_argument("config", nargs="?", metavar="CONFIG", help="YAML file of a study; or --preset")
    parser.add_argument("--preset", help="a study that comes with the package: cpu (an hour on 2 cores), full (a GPU), "
                        "smoke (minutes, no claim)")  # fmt: skip
    parser.add_argument("-o", default="study", metavar="FOLDER", help="where everything goes (default: %(default)s)")
    parser.add_argument(
        "--set",
        dest="assignments",
        action="extend",
        nargs="+",
        metavar="KEY=VALUE",
        help="change the configuration, repeatable: phantoms.test=4, seeds=[0,1], ...",
    )
    parser.add_argument("-device", "--device", help="where to train and predict (default: as the configuration says)")
    parser.add_argument(
        "--jobs", type=int, default=1, metavar="N", help="steps at the same time (default: %(default)s)"
    )
    parser.add_argument("--resume", action="store_true", help="go on in the folder of a study that was begun")
    parser.add_argument("--dry-run", action="store_true", help="list the steps that would be done, do nothing")
    add_json_option(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    return run(build_parser(), FUNCTION, argv)
