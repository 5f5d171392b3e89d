"""`nnUNetv2_spine_convert pairs`: the options of the converter for any images and masks."""

from __future__ import annotations

import argparse

from nnunet_spine_ext.cli.convert_target import add_target
from nnunet_spine_ext.cli.shell import add_action, add_common_options, add_json_option

FUNCTION = "nnunet_spine_ext.dataset_conversion.pairs:pairs"
PROG = "nnUNetv2_spine_convert"

_PAIRS_EXAMPLES = f"""  # one subject per folder; look at the plan first, then leave --dry-run out
  {PROG} pairs 501 --name Cord --images '/data/*/t2/t2.nii.gz' \\
      --labels '/data/*/t2/t2_seg.nii.gz' --label-map cord=1 --contrast T2w --dry-run
  # SPINEPS masks to the 14 training classes, placeholders instead of wildcards, two test subjects
  {PROG} pairs 502 --name Spine --images '/data/{{subject}}/{{subject}}_T2w.nii.gz' \\
      --labels '/data/{{subject}}/{{subject}}_seg-spine_msk.nii.gz' --label-map spineps:nnunet14 \\
      --test-subjects sub-07 sub-11
  # two contrasts as cases of their own, and scans of another scanner without masks
  {PROG} pairs 503 --name Both --images '/data/*/t1.nii.gz' '/data/*/t2.nii.gz' \\
      --labels '/data/*/t1_seg.nii.gz' '/data/*/t2_seg.nii.gz' --contrast T1w T2w \\
      --label-map cord=1 --unlabelled '/siteB/*/t2.nii.gz{{site=B}}'"""


def add_parser(sources: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the sub-command."""
    parser = add_action(
        sources,
        "pairs",
        FUNCTION,
        short="images and masks named by two file patterns",
        description=(
            "Convert images and masks to an nnU-Net raw dataset. Files are paired by what the wildcards of two\n"
            "patterns match: *, ?, [abc], ** and {name}. {name=value} in a pattern states a fact about its files\n"
            "(subject, site, manufacturer, model, field_strength, contrast). Put patterns in quotes."
        ),
        examples=_PAIRS_EXAMPLES,
    )
    _add_inputs(parser)
    add_target(parser)
    add_common_options(parser, again=True)
    add_json_option(parser)


def _add_inputs(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("input")
    group.add_argument("--images", nargs="+", required=True, metavar="PATTERN", help="images (NIfTI, MHA, NRRD)")
    group.add_argument("--labels", nargs="+", required=True, metavar="PATTERN", help="masks, one pattern per source")
    group.add_argument(
        "--label-map",
        nargs="+",
        metavar="MAP",
        help="name=id[,id] ..., SCHEME:TARGET, or a YAML file; without it ids are kept in order and renumbered from 1",
    )
    group.add_argument(
        "--soft",
        nargs="+",
        default=(),
        metavar="PATTERN",
        help="soft labels of one class (0 to 1, -1: not known), one pattern per mask pattern (-: none)",
    )
    group.add_argument(
        "--subject-pattern",
        metavar="N|REGEX",
        help="number of the wildcard that is the subject, or a regular expression on the path "
        "(default: {subject}, else sub-... in the path, else the first wildcard)",
    )
    group.add_argument("--contrast", nargs="+", default=(), metavar="NAME", help="one for all, or one per source")
    group.add_argument(
        "--channel-name",
        nargs="+",
        default=("MRI",),
        metavar="NAME",
        help="nnU-Net's channel name (default: MRI; 'CT' changes the normalization); several names: as many image "
        "patterns per mask pattern make one case",
    )
    group.add_argument(
        "--unlabelled", nargs="+", default=(), metavar="DIR|PATTERN", help="images without masks (declares 'ignore')"
    )
    group.add_argument("--test-subjects", nargs="+", default=(), metavar="NAME", help="subjects for imagesTs/labelsTs")
    group.add_argument("--train-only", nargs="+", default=(), metavar="NAME", help="subjects that are never validated")
    group.add_argument("--resample", choices=("nearest",), help="resample masks that lie on another grid")
    group.add_argument("--prefer", choices=("sform", "qform"), help="which to use where the two disagree")
    group.add_argument("--strict", action="store_true", help="treat warnings about files as errors")
