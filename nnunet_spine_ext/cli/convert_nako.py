"""`nnUNetv2_spine_convert nako`: the options of the converter for NAKO-like trees."""

from __future__ import annotations

import argparse

from nnunet_spine_ext.cli.convert_target import add_target
from nnunet_spine_ext.cli.shell import add_action, add_common_options, add_json_option

FUNCTION = "nnunet_spine_ext.dataset_conversion.nako:nako"
PROG = "nnUNetv2_spine_convert"

_EXAMPLES = f"""  # every chunk with a mask is a case; look at the plan first, then leave --dry-run out
  {PROG} nako /data/NAKO 521 --dry-run
  # neck, chest and lumbar spine of each subject joined, their bias fields divided out, three test subjects
  {PROG} nako /data/NAKO 522 --name NAKOwhole --stitch --n4 --test-subjects 100007 100011 100023
  # water images of a dixon sequence, masks of one of several folders, scans without masks as well
  {PROG} nako /data/NAKO 523 --name Dixon --suffix vibe --where part=water \\
      --derivatives derivatives_seg --unlabelled"""


def add_parser(sources: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the sub-command."""
    parser = add_action(
        sources,
        "nako",
        FUNCTION,
        short="NAKO-like trees: chunks HWS/BWS/LWS, masks of SPINEPS in derivatives",
        description=(
            "Convert a BIDS-like tree of whole-spine MRI to an nnU-Net raw dataset with 14 classes. What files are is\n"
            "read from the entities in their names (sub, ses, sequ, chunk, seg, mod), in any order and at any depth.\n"
            "Of repeated scans the highest sequ counts. Series that the scanner composed are refused: they are\n"
            "deformed."
        ),
        examples=_EXAMPLES,
    )
    _add_inputs(parser)
    add_target(parser, name="NAKO")
    add_common_options(parser, again=True)
    add_json_option(parser)


def _add_inputs(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="SOURCE", help="the folder that holds images and masks, at any depth")
    group = parser.add_argument_group("input")
    group.add_argument(
        "--suffix", nargs="+", default=("T2w",), metavar="NAME", help="suffix of the images (default: T2w)"
    )
    group.add_argument(
        "--where", nargs="+", default=(), metavar="KEY=VALUE", help="entities that images must have (part=water)"
    )
    group.add_argument(
        "--use",
        choices=("auto", "chunks", "stitched"),
        default="auto",
        help="where a scan has chunks and an image stitched of them (default: the stitched one; with --stitch the "
        "chunks)",
    )
    group.add_argument("--stitch", action="store_true", help="join the chunks of each scan into one case")
    group.add_argument(
        "--derivatives",
        nargs="+",
        default=(),
        metavar="DIR",
        help="folders to take masks from, paths or names in SOURCE (default: wherever they are)",
    )
    group.add_argument("--unlabelled", action="store_true", help="scans without masks too (declares 'ignore')")
    group.add_argument(
        "--cord-canal",
        choices=("auto", "stored", "exchanged"),
        default="auto",
        help="codes 60 and 61: told from their shapes (default), cord and canal as stored, or exchanged in all masks",
    )
    group.add_argument(
        "--drop-ids", nargs="+", type=int, default=(), metavar="ID", help="ids of semantic masks to take for background"
    )
    group.add_argument("--n4", action="store_true", help="divide the bias field (coil sensitivity) out")
    group.add_argument("--test-subjects", nargs="+", default=(), metavar="NAME", help="subjects for imagesTs/labelsTs")
    group.add_argument("--test-list", metavar="FILE", help="a YAML or text file that lists the test subjects")
    group.add_argument("--resample", choices=("nearest",), help="resample masks that lie on another grid")
    group.add_argument("--prefer", choices=("sform", "qform"), help="which to use where the two disagree")
    group.add_argument("--strict", action="store_true", help="treat warnings about files as errors")
