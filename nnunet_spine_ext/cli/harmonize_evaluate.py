"""`nnUNetv2_spine_harmonize evaluate`: the options of measuring what harmonization does."""

from __future__ import annotations

import argparse

from nnunet_spine_ext.cli.shell import add_action, add_common_options, add_json_option, add_settings_option

PROG = "nnUNetv2_spine_harmonize"
FUNCTION = "nnunet_spine_ext.study.harmonization.run:evaluate"

_DESCRIPTION = """Measure what harmonization does for the segmentation of discs and for radiomic features.

Everything comes from one configuration: segmenters of the target, harmonizers with and without each of their losses,
and baselines are trained and tested on slices of patients that nothing was trained on. Writes segmentation.csv,
radiomics.csv, geometry.csv, tables, figures and index.html, and prints every number with its interval."""
_EXAMPLES = f"""  {PROG} evaluate -o harmonization --preset cpu --jobs 2
  {PROG} evaluate -o harmonization --preset cpu --jobs 2 --resume
  # your own scans: a YAML file with `given`
  {PROG} evaluate -o harmonization --preset mine.yaml --set "arms=[none, nyul, full]" -device cuda
  {PROG} evaluate -o harmonization --preset cpu --dry-run"""


def add_parser(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the sub-command."""
    parser = add_action(
        actions, "evaluate", FUNCTION, short="measure harmonizers", description=_DESCRIPTION, examples=_EXAMPLES
    )
    parser.add_argument("-o", required=True, metavar="DIR", help="folder for everything")
    parser.add_argument(
        "--preset",
        default="full",
        metavar="NAME",
        help="full (a GPU), cpu (an hour on 2 cores), smoke (minutes, no claim), or a YAML file (default: full)",
    )
    add_settings_option(parser, "change the configuration, repeatable: phantoms.test=4, arms=[none, nyul, full], ...")
    parser.add_argument(
        "-device", "--device", metavar="NAME", help="where to train (default: as the configuration says)"
    )
    parser.add_argument(
        "--jobs", type=int, default=1, metavar="N", help="steps at the same time (default: %(default)s)"
    )
    parser.add_argument("--resume", action="store_true", help="go on where it was stopped")
    parser.add_argument("--dry-run", action="store_true", help="list the steps that would be done, do nothing")
    add_common_options(parser, again=True)
    add_json_option(parser)
