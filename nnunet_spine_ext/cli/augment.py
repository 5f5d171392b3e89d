"""`nnUNetv2_spine_augment`: look at what the network will see."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from nnunet_spine_ext.cli.shell import add_json_option, make_parser, run

PROG = "nnUNetv2_spine_augment"
FUNCTION = "nnunet_spine_ext.training.augment:augment"
_DESCRIPTION = """Make a contact sheet of what augmentation makes of an image: the original, then samples as the network
will see them, each with what was done. A JSON record beside the picture makes the same pictures again (--replay). Equal
options give equal bytes. Mirroring is not shown: trainers add it by train.mirror."""
_EXAMPLES = """  nnUNetv2_spine_augment -i scan.nii.gz -seg mask.nii.gz -o grid.png
  nnUNetv2_spine_augment -i scan.nii.gz --config my.yaml --n 24 --epoch 0 -o start.png
  nnUNetv2_spine_augment -i scan.nii.gz --profile ge-1.5t philips-3t:noise=2 --set jitter=0.3 -o scanners.png
  nnUNetv2_spine_augment -i scan.nii.gz --transform gibbs --set factor=2.5 --n 3 -o gibbs.png
  nnUNetv2_spine_augment -i scan.nii.gz -seg mask.nii.gz --plans spinePlans.json -c 3d_fullres -o patch.png
  nnUNetv2_spine_augment --replay grid.json -i scan.nii.gz -seg mask.nii.gz -o again.png --volumes samples
  nnUNetv2_spine_augment --import smauglab.json -o converted.yaml
  nnUNetv2_spine_augment --list"""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser; its destinations are the parameters of `training.augment.augment`."""
    parser = make_parser(PROG, _DESCRIPTION, _EXAMPLES)
    add_json_option(parser)
    parser.add_argument("--list", dest="listing", action="store_true", help="list transforms, presets and scanners")
    parser.add_argument(
        "--import",
        dest="import_file",
        metavar="JSON",
        help="convert a configuration of SmaugLab or AugLab; -o is then our .yaml",
    )
    parser.add_argument("--dry-run", action="store_true", help="check and draw everything, write nothing")
    _add_input(parser)
    _add_augmentation(parser)
    _add_picture(parser)
    return parser


def _add_input(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("input")
    group.add_argument("-i", nargs="+", default=(), metavar="IMAGE", help="image; further ones are further channels")
    group.add_argument("-seg", "--seg", metavar="MASK", help="label map on the grid of the image")
    group.add_argument(
        "--scheme",
        metavar="NAME",
        help="of the labels, such as nnunet14 (default: what a dataset.json beside them says)",
    )
    group.add_argument(
        "--spacing",
        nargs=3,
        type=float,
        metavar="MM",
        help="resample first: voxel size along right-left, front-back, up-down (default: as stored)",
    )
    group.add_argument(
        "--plans",
        metavar="PLANS_JSON",
        help="show patches as a training with these plans gets them: their spacing, patch size and normalization, and "
        "their augmentation unless another is asked for",
    )
    group.add_argument("-c", metavar="CONFIGURATION", help="of the plans (default: the only one)")
    group.add_argument("--replay", metavar="JSON", help="the record of a sheet: the same samples again")
    group.add_argument("--other-image", action="store_true", help="replay on files that the record was not made of")


def _add_augmentation(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("augmentation")
    group.add_argument("--config", metavar="PRESET|FILE", help="preset, or a .yaml or .json file (default: shift)")
    group.add_argument(
        "--profile",
        nargs="+",
        default=(),
        metavar="SCANNER",
        help="scanners, as nnUNetv2_spine_phantom --scanner takes them; of several, samples take turns",
    )
    group.add_argument("--transform", metavar="NAME", help="one transform alone, in every sample")
    group.add_argument(
        "--set",
        dest="assignments",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=VALUE",
        help="settings of --transform; of --config: order, schedule.clean_share, …; of --profile: jitter, blend, "
        "weights, severity, weighting; repeatable",
    )
    group.add_argument(
        "--strength", type=float, default=1.0, metavar="S", help="0 nothing, 1 as configured, at most 5 (default: 1)"
    )
    group.add_argument(
        "--epoch", type=int, metavar="N", help="of the training, whose schedule applies (default: the first in full)"
    )
    group.add_argument("--n", type=int, default=16, metavar="N", help="number of samples (default: 16)")
    group.add_argument("--seed", type=int, default=0, help="default: 0")


def _add_picture(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("output")
    group.add_argument("-o", metavar="PNG", help="the picture; its record goes beside it as .json")
    group.add_argument("--volumes", metavar="DIR", help="also write the samples as NIfTI: DIR/images, DIR/labels")
    group.add_argument("--plane", metavar="PLANE", help="sagittal, coronal or axial (default: sagittal where possible)")
    group.add_argument(
        "--size", type=int, default=320, metavar="PIXELS", help="longer side of a picture (default: 320)"
    )
    group.add_argument("--columns", type=int, default=0, metavar="N", help="pictures per row (default: 0, as fits)")
    group.add_argument("--no-contours", dest="contours", action="store_false", default=True, help="do not draw labels")
    group.add_argument(
        "--own-window", action="store_true", help="grey levels of each picture for itself, not those of the original"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    return run(build_parser(), FUNCTION, argv)
