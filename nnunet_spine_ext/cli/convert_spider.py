"""`nnUNetv2_spine_convert spider`: the options of the converter for SPIDER."""

from __future__ import annotations

import argparse

from nnunet_spine_ext.cli.convert_target import add_target
from nnunet_spine_ext.cli.shell import add_action, add_common_options, add_json_option

FUNCTION = "nnunet_spine_ext.dataset_conversion.spider:spider"
PROG = "nnUNetv2_spine_convert"

_EXAMPLES = f"""  # vertebra, disc, canal; the published validation patients as test set
  {PROG} spider /data/SPIDER 501 --test-subset validation
  # one class for each level, T2-weighted series only
  {PROG} spider /data/SPIDER 502 --name SpiderLevels --target levels --series t2
  # the 14 training classes: what SPIDER does not label is ignored, or comes from masks made by a model
  {PROG} spider /data/SPIDER 503 --name Spider14 --target nnunet14 --subregions /data/SPIDER_subregions"""

# The same values as in `dataset_conversion.spider`, which imports numpy: a test compares them.
_TARGETS = ("semantic", "levels", "nnunet14")
_SERIES = ("t1", "t2", "t2_SPACE")


def add_parser(sources: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the sub-command."""
    parser = add_action(
        sources,
        "spider",
        FUNCTION,
        short="SPIDER: lumbar MRI with masks of vertebrae, discs and canal",
        description=(
            "Convert a SPIDER folder (images/*.mha, masks/*.mha, overview.csv, radiological_gradings.csv) to an\n"
            "nnU-Net raw dataset with instances. Each series is a case; all series of a patient stay together."
        ),
        examples=_EXAMPLES,
    )
    parser.add_argument("source", metavar="SOURCE", help="the folder that holds the folders images and masks")
    _add_classes(parser)
    _add_numbering(parser)
    _add_cases(parser)
    add_target(parser, name="SPIDER")
    parser.set_defaults(licence="CC BY 4.0")
    add_common_options(parser, again=True)
    add_json_option(parser)


def _add_classes(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("classes")
    group.add_argument(
        "--target",
        choices=_TARGETS,
        default="semantic",
        help="vertebra, disc, canal (semantic, the default); one class for each level (levels); the 14 training "
        "classes, of which SPIDER knows discs and ignores the rest (nnunet14)",
    )
    group.add_argument(
        "--levels", type=int, default=10, metavar="N", help="levels of --target levels, for every subset (default: 10)"
    )
    group.add_argument(
        "--partly-visible",
        choices=("keep", "ignore"),
        default="keep",
        help="take partly visible vertebrae (101 to 125) for what they are, or ignore them (default: keep)",
    )
    group.add_argument(
        "--subregions", metavar="DIR", help="semantic masks made by a model, called after the cases, for nnunet14"
    )
    group.add_argument(
        "--allow-model-labels",
        action="store_true",
        help="validate and test on cases with parts made by a model; without it they are only trained on",
    )
    group.add_argument(
        "--endplate-margin",
        type=float,
        default=3.0,
        metavar="MM",
        help="nnunet14: ignore background this close to a vertebra and a disc: endplates (default: 3)",
    )
    group.add_argument(
        "--end-margin",
        type=float,
        default=20.0,
        metavar="MM",
        help="nnunet14: ignore background up to this far above the lowest disc and below the centre of the highest "
        "vertebra: sacrum and vertebrae nobody labelled (default: 20)",
    )


def _add_numbering(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("numbering")
    group.add_argument(
        "--level-order",
        choices=("bottom-up", "top-down"),
        default="bottom-up",
        help="from which end the masks count; bottom-up is as published",
    )
    group.add_argument("--lowest", default="L5", metavar="NAME", help="the lowest vertebra of every mask (default: L5)")
    group.add_argument(
        "--lowest-table",
        metavar="CSV",
        help="who has another one: columns patient, lowest and perhaps thoracic (11 to 13), lumbar (4 to 6)",
    )


def _add_cases(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("cases")
    group.add_argument("--series", nargs="+", choices=_SERIES, default=(), help="only these series (default: all)")
    group.add_argument(
        "--header-tolerance",
        type=float,
        metavar="MM",
        help="take the image's header for a mask whose corners lie up to this far off (default: one voxel)",
    )
    group.add_argument(
        "--test-patients",
        nargs="+",
        default=(),
        metavar="LIST",
        help="patients for imagesTs/labelsTs: names, or files with one per line",
    )
    group.add_argument(
        "--test-subset", metavar="NAME", help="patients of this subset of overview.csv too, for example validation"
    )
    group.add_argument("--strict", action="store_true", help="treat warnings about files as errors")
