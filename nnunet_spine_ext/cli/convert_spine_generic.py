"""`nnUNetv2_spine_convert spine_generic`: the options of the converter for Spine-Generic data sets."""

from __future__ import annotations

import argparse

from nnunet_spine_ext.cli.convert_target import add_target
from nnunet_spine_ext.cli.shell import add_action, add_common_options, add_json_option

FUNCTION = "nnunet_spine_ext.dataset_conversion.spine_generic:spine_generic"
PROG = "nnUNetv2_spine_convert"

_EXAMPLES = f"""  # every contrast that has a cord mask; look at the plan first, then leave --dry-run out
  {PROG} spine_generic /data/data-multi-subject 511 --dry-run
  # the ground truth of the contrast-agnostic model, its exclusions and its frozen test subjects
  {PROG} spine_generic /data/data-multi-subject 512 --name Binarised \\
      --derivatives labels_softseg_bin --exclude exclude_from_training.yml \\
      --test-list spine_generic_test_split_for_csa_drift_monitoring.yaml
  # soft labels of all contrasts, or those that the data set has
  {PROG} spine_generic /data/data-multi-subject 514 --name Soft --soft average
  {PROG} spine_generic /data/data-multi-subject 515 --name SoftStored --soft labels_softseg
  # cord and canal on two contrasts, without the sites that the list of one measure names
  {PROG} spine_generic /data/data-multi-subject 513 --name Canal --classes cord canal \\
      --contrasts T1w T2w --exclude /data/data-multi-subject/exclude.yml:csa_t1,csa_t2"""


def add_parser(sources: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the sub-command."""
    parser = add_action(
        sources,
        "spine_generic",
        FUNCTION,
        short="a Spine-Generic data set: BIDS, many sites, masks in derivatives",
        description=(
            "Convert a Spine-Generic data set to an nnU-Net raw dataset. Each contrast of a subject is a case; all\n"
            "cases of a subject stay on one side of every split. Sites and scanners come from participants.tsv and\n"
            "the images' JSON files. Masks that a model made are trained on, never scored against."
        ),
        examples=_EXAMPLES,
    )
    _add_inputs(parser)
    add_target(parser, name="SpineGeneric")
    add_common_options(parser, again=True)
    add_json_option(parser)


def _add_inputs(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="SOURCE", help="the folder that holds sub-* and derivatives")
    group = parser.add_argument_group("input")
    group.add_argument(
        "--classes",
        nargs="+",
        default=("cord",),
        metavar="NAME",
        help="cord, canal, csf, gm, in the order of their ids (default: cord); each case needs a mask of each",
    )
    group.add_argument(
        "--derivatives",
        nargs="+",
        default=("labels",),
        metavar="FOLDER",
        help="folders of masks below derivatives/ (default: labels); the first that has a mask is taken",
    )
    group.add_argument(
        "--contrasts",
        nargs="+",
        default=(),
        metavar="NAME",
        help="such as T1w, T2star, flip-1_mt-on_MTS, or MTS for all of them (default: all that have masks)",
    )
    group.add_argument(
        "--exclude",
        nargs="+",
        default=(),
        metavar="FILE[:KEY,...]",
        help="YAML lists of subjects or sites to leave out (all of the file's lists, or those under these keys)",
    )
    group.add_argument(
        "--include", nargs="+", default=(), metavar="FILE[:KEY,...]", help="YAML lists of what to use, and nothing else"
    )
    group.add_argument("--test-list", metavar="FILE", help="YAML with the test subjects: a list, or one under 'test'")
    group.add_argument("--test-subjects", nargs="+", default=(), metavar="NAME", help="subjects for imagesTs/labelsTs")
    group.add_argument(
        "--allow-model-labels", action="store_true", help="validate and test against masks made by a model too"
    )
    group.add_argument(
        "--soft",
        metavar="average|FOLDER",
        help="soft labels too: average makes them of all contrasts of a subject, a folder below derivatives/ has them",
    )
    group.add_argument("--resample", choices=("nearest",), help="resample masks that lie on another grid")
    group.add_argument("--prefer", choices=("sform", "qform"), help="which to use where the two disagree")
    group.add_argument("--strict", action="store_true", help="treat warnings about files as errors")
