"""`nnUNetv2_spine_plan`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from nnunet_spine_ext.cli.shell import Once, add_json_option, make_parser, run

PROG = "nnUNetv2_spine_plan"
FUNCTION = "nnunet_spine_ext.training.plan:plan"
EXAMPLES = """  nnUNetv2_spine_plan -d 501 --name spineCpu --preset cpu
  nnUNetv2_spine_plan -d 501 --name softCpu --preset cpu --set soft.loss.name=adaptive_wing
  nnUNetv2_spine_plan -d 501 --name spineShort --set train.num_epochs=200 --set batch_size=4
  nnUNetv2_spine_plan -m MODEL_FOLDER --set predict.instances=true"""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser; its destinations are the parameters of `training.plan.plan`."""
    parser = make_parser(
        PROG,
        "Write settings and recipes as a new plans file beside nnU-Net's (one variant = one -p = one results folder), "
        "or edit what a trained model does at prediction.",
        EXAMPLES,
    )
    parser.add_argument("-d", help="dataset id or name (planned and preprocessed by nnU-Net)")
    parser.add_argument("-p", default="nnUNetPlans", help="plans to start from (default: %(default)s)")
    parser.add_argument("-c", default="3d_fullres", help="configuration that a preset changes (default: %(default)s)")
    parser.add_argument("-m", metavar="MODEL", help="folder of a trained model to edit instead of a dataset")
    parser.add_argument("--name", help="name of the new plans; train with -p NAME")
    parser.add_argument(
        "--preset", action=Once, help="recipe: cpu, shift, soft, spineps, contrast-agnostic, … or a YAML file"
    )
    parser.add_argument(
        "--set",
        dest="assignments",
        action="extend",
        nargs="+",
        metavar="KEY=VALUE",
        help="change settings; repeatable",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace plans of the same name")
    parser.add_argument("--dry-run", action="store_true", help="show the changes, write nothing")
    add_json_option(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    return run(build_parser(), FUNCTION, argv)
