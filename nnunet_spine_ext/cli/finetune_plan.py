"""`nnUNetv2_spine_finetune_plan`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from nnunet_spine_ext.cli.shell import add_json_option, make_parser, run

PROG = "nnUNetv2_spine_finetune_plan"
FUNCTION = "nnunet_spine_ext.training.finetune_plan:finetune_plan"
_DESCRIPTION = """Plan a fine-tuning with few samples: plans of a dataset that start from another model's weights.

Network, patches, spacing, normalization and settings are those of the source model, ours or stock nnU-Net's. The cases
are chosen by subject, each scanner in its share; those of a smaller --n are among those of a larger one, and the same
subjects validate for every --n and --seed. The dataset's own splits and plans stay as they are."""
EXAMPLES = """  nnUNetv2_spine_finetune_plan -m MODEL_FOLDER -d 502 --name ft10 --n 10
  nnUNetv2_spine_finetune_plan -m MODEL_FOLDER -d 502 --name ft5s1 --n 5 --seed 1 --parts decoder
  nnUNetv2_spine_finetune_plan -m MODEL_FOLDER -d 502 --name mine --cases scan_01 scan_07 --validation scan_02
  nnUNetv2_spine_finetune_plan -m MODEL_FOLDER -d 502 --name ft10 --n 10 --dry-run"""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser; its destinations are the parameters of `training.finetune_plan.finetune_plan`."""
    parser = make_parser(PROG, _DESCRIPTION, EXAMPLES)
    parser.add_argument("-m", required=True, metavar="MODEL", help="folder of the source model")
    parser.add_argument("-d", required=True, metavar="DATASET", help="target dataset, id or name")
    parser.add_argument("--name", required=True, help="name of the new plans; train with -p NAME")
    cases = parser.add_argument_group("cases")
    cases.add_argument(
        "--n", type=int, default=10, metavar="N", help="subjects to train on, with all their cases (default: 10)"
    )
    cases.add_argument("--seed", type=int, default=0, help="of their selection (default: 0)")
    cases.add_argument("--cases", nargs="+", metavar="CASE", help="train on these instead")
    cases.add_argument("--validation", nargs="+", metavar="CASE", help="validate on these instead of a fifth")
    source = parser.add_argument_group("source model")
    source.add_argument("-f", nargs="+", metavar="FOLD", help="folds to start from (default: all that are trained)")
    source.add_argument("-chk", default="checkpoint_final.pth", help="checkpoint (default: %(default)s)")
    source.add_argument("--trust", action="store_true", help="load checkpoints that carry code, once, here (unsafe)")
    how = parser.add_argument_group("training")
    how.add_argument(
        "--parts",
        choices=("norm", "decoder", "all"),
        default="all",
        help="what is trained: scale and shift of the norm layers, the decoder, or all (default: all)",
    )
    how.add_argument(
        "--set",
        dest="assignments",
        action="extend",
        nargs="+",
        metavar="KEY=VALUE",
        help="change settings, repeatable: train.num_epochs=50, train.initial_lr=1e-3, ...",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace plans of the same name")
    parser.add_argument("--dry-run", action="store_true", help="show what would be written, write nothing")
    add_json_option(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    return run(build_parser(), FUNCTION, argv)
