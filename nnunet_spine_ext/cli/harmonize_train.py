"""`nnUNetv2_spine_harmonize train`: the options of training a harmonizer."""

from __future__ import annotations

import argparse

from nnunet_spine_ext.cli.shell import (
    add_action,
    add_common_options,
    add_device_option,
    add_json_option,
    add_settings_option,
)

PROG = "nnUNetv2_spine_harmonize"
FUNCTION = "nnunet_spine_ext.training.harmonize:train"

_DESCRIPTION = """Train a network that makes sagittal slices of other scanners look like those of the target scanner.

Slices come from nnU-Net raw datasets; cases.json says which scanner each case is from. Masks are not needed: a frozen
segmenter of target slices (see the action segmenter) keeps the anatomy, and a radiomic loss the texture. The folder
gets model.json, generator_<epoch>.safetensors, radiomics.json, log.csv and one picture per epoch; an interrupted
training leaves a folder that can be used."""
_EXAMPLES = f"""  {PROG} train -d 701 --target Siemens --source Philips GE --segmenter models/discs
  # every scanner that is not the target; without a GPU
  {PROG} train -d 701 702 --target Siemens --segmenter models/discs --preset cpu -device cpu
  {PROG} train -d 701 --target Siemens --segmenter models/discs --resume
  # the cycle alone: no segmentation, no radiomics
  {PROG} train -d 701 --target Siemens --preset plain --name plain
  # one loss less, another adversarial loss
  {PROG} train -d 701 --target Siemens --segmenter models/discs --name no_rf \\
      --set weights.radiomics=0 adversarial=bce"""


def add_parser(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the sub-command."""
    parser = add_action(
        actions, "train", FUNCTION, short="train a harmonizer", description=_DESCRIPTION, examples=_EXAMPLES
    )
    _add_slices(parser)
    _add_model(parser)
    again = parser.add_argument_group("an earlier training")
    again.add_argument("--resume", action="store_true", help="go on where it was stopped")
    again.add_argument("--overwrite", action="store_true", help="train anew into a folder that has a model")
    add_common_options(parser, again=True)
    add_json_option(parser)


def _add_slices(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("slices")
    group.add_argument(
        "-d", nargs="+", required=True, metavar="DATASET", help="ids, names or folders of raw datasets with cases.json"
    )
    group.add_argument("--target", nargs="+", required=True, metavar="VALUE", help="scanners to look like")
    group.add_argument(
        "--source", nargs="+", default=(), metavar="VALUE", help="scanners to change (default: all that are no target)"
    )
    group.add_argument(
        "--key",
        default="manufacturer",
        metavar="NAME",
        help="the fact in cases.json that tells scanners apart (default: manufacturer)",
    )


def _add_model(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("model")
    group.add_argument(
        "--method",
        choices=("cyclegan", "nyul", "zscore", "histogram"),
        default="cyclegan",
        help="the network, or one of the baselines (default: cyclegan)",
    )
    group.add_argument(
        "--segmenter",
        metavar="DIR",
        help="model of the discs of target slices; not needed where its losses weigh 0, none for a baseline",
    )
    group.add_argument("-o", metavar="DIR", help="folder of the model (default: nnUNet_results/<dataset>/<name>)")
    group.add_argument("--name", default="harmonizer", help="name of that folder (default: harmonizer)")
    group.add_argument(
        "--preset",
        default="full",
        metavar="NAME",
        help="full (the paper's; needs a GPU), plain, cpu, smoke, or a YAML file (default: full)",
    )
    add_settings_option(
        group,
        "change settings, repeatable: epochs=100, weights.radiomics=0, slices.size=[160,160], ...; of a baseline "
        "slices.* and baseline.* alone",
    )
    add_device_option(group)
    group.add_argument(
        "-num_gpus", type=int, default=1, metavar="N", help="processes that share every batch, one per GPU (default: 1)"
    )
