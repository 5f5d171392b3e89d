"""`nnUNetv2_spine_predict`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import get_args

from nnunet_spine_ext.cli.phase_options import add_phase_options
from nnunet_spine_ext.cli.shell import add_json_option, make_parser, run
from nnunet_spine_ext.core.device import Precision

PROG = "nnUNetv2_spine_predict"
FUNCTION = "nnunet_spine_ext.inference.predict:predict"
EXAMPLES = """  nnUNetv2_spine_predict -i scan.nii.gz -o out -m MODEL_FOLDER --instances --report
  nnUNetv2_spine_predict -i folder -o out -m MODEL_FOLDER --numbering --snapshots --bids
  nnUNetv2_spine_predict -i folder -o out -d 501 -p spineCpu -c 3d_fullres -f 0 1 2
  nnUNetv2_spine_predict -i folder -o out -m SOFT_MODEL_FOLDER --crop on --precision bf16
  nnUNetv2_spine_predict -i folder -o out -m MODEL_FOLDER --match anchored --tta full --uncertainty --report
  nnUNetv2_spine_predict -i folder -o out -m MODEL_FOLDER --match cyclegan --harmonize-model HARMONIZER
  nnUNetv2_spine_predict -i folder -o out -m MODEL_FOLDER --match body --adapt consistency
  nnUNetv2_spine_predict -i folder -o out -m MODEL_FOLDER --dry-run
  nnUNetv2_spine_predict -i folder -o out -m MODEL_FOLDER --resume"""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser; its destinations are the parameters of `inference.predict.predict`."""
    parser = make_parser(
        PROG,
        "Predict images with a trained nnU-Net model, ours or stock. A case that fails leaves the others alone; "
        "cases.jsonl says what happened to each.",
        EXAMPLES,
    )
    _add_model_options(parser)
    parser.add_argument(
        "-device", "--device", default="auto", help="auto, cpu, cuda, cuda:N or mps (default: %(default)s)"
    )
    parser.add_argument(
        "-step_size", "--step-size", type=float, default=0.5, help="step between windows (default: %(default)s)"
    )
    _add_crossing_options(parser)
    parser.add_argument(
        "--accumulate",
        choices=("single", "half"),
        default="single",
        help="precision in which windows add up; half is nnU-Net's (default: %(default)s)",
    )
    _add_speed_options(parser)
    phases = parser.add_argument_group("after the network")
    phases.add_argument("--instances", action="store_true", help="also write instances/, centroids/ and qc/")
    add_phase_options(phases)
    parser.add_argument("--report", action="store_true", help="also write report.html")
    parser.add_argument(
        "--resume",
        "--continue_prediction",
        dest="resume",
        action="store_true",
        help="keep finished cases, verified by checksums",
    )
    parser.add_argument("--strict", action="store_true", help="treat geometry warnings as errors")
    parser.add_argument("--prefer", choices=("sform", "qform"), help="which transform to believe when a header has two")
    parser.add_argument("--trust", action="store_true", help="load checkpoints that carry code (unsafe)")
    parser.add_argument("-num_parts", "--num-parts", type=int, default=1, help="split the cases among this many runs")
    parser.add_argument("-part_id", "--part-id", type=int, default=0, help="which part this run is, from 0")
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="check the model folder and every input file as the run would, predict nothing",
    )
    add_json_option(parser)
    return parser


def _add_model_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-i", required=True, nargs="+", metavar="FILE_OR_FOLDER", help="images, or a folder of images")
    parser.add_argument("-o", required=True, metavar="FOLDER", help="where the results go")
    parser.add_argument("-m", metavar="MODEL", help="folder of a trained model")
    parser.add_argument("-d", help="dataset id or name, instead of -m")
    parser.add_argument("-tr", default="nnUNetTrainerSpine", help="trainer, with -d (default: %(default)s)")
    parser.add_argument("-p", default="nnUNetPlans", help="plans, with -d (default: %(default)s)")
    parser.add_argument("-c", default="3d_fullres", help="configuration, with -d (default: %(default)s)")
    parser.add_argument("-f", nargs="+", help="folds (default: all numbered ones that are trained)")
    parser.add_argument("-chk", default="checkpoint_final.pth", help="checkpoint (default: %(default)s)")


def _add_crossing_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("images of other scanners")
    group.add_argument(
        "--match",
        choices=("none", "noise", "body", "nyul", "cdf", "anchored", "cyclegan"),
        help="bring noise and intensities to those of the training images first; noise: that alone; anchored predicts "
        "twice, the first time to find structures; cyclegan has a network make the images (default: as the model's "
        "plans say, else none)",
    )
    group.add_argument(
        "--harmonize-model",
        metavar="FOLDER",
        help="that network, of nnUNetv2_spine_harmonize train (default: as the model's plans say)",
    )
    group.add_argument(
        "--tta",
        choices=("none", "mirror", "full"),
        default="mirror",
        help="test-time augmentation: mirror (left and right are exchanged where the image is mirrored), or full: "
        "other intensities and resolutions as well (default: %(default)s)",
    )
    group.add_argument(
        "--views",
        nargs="+",
        choices=("mirror", "intensity", "resolution"),
        help="kinds of views of --tta full (default: as the model's plans say, else all)",
    )
    group.add_argument(
        "--all-views",
        action="store_true",
        help="look at all views of --tta full, also when further ones change little any more",
    )
    group.add_argument(
        "--adapt",
        choices=("none", "consistency", "tent"),
        default="none",
        help="train on each case before it is predicted; the next case starts anew (default: %(default)s)",
    )
    group.add_argument(
        "--adapt-steps",
        type=int,
        help="steps of --adapt (default: as the model's plans say, else 12 of consistency, 5 of tent)",
    )
    group.add_argument(
        "--uncertainty",
        action="store_true",
        help="also write uncertainty/: how uncertain the views of --tta full are, and where they disagree",
    )


def _add_speed_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--crop",
        choices=("auto", "off", "on"),
        help="look for the structures coarsely first and do only their surroundings with care; auto: soft models on a "
        "CPU, where that spares work (default: as the model's plans say, else auto)",
    )
    parser.add_argument(
        "--precision",
        choices=get_args(Precision),
        default="fp32",
        help="bf16: bfloat16, on hardware that has it; auto: that on an x86 CPU that has it (default: %(default)s)",
    )
    parser.add_argument(
        "--window-batch", type=int, default=1, metavar="N", help="windows computed at once (default: %(default)s)"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    return run(build_parser(), FUNCTION, argv)
