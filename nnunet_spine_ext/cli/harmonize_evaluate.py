"""`nnUNetv2_spine_harmonize evaluate`: the options of measuring what harmonization does."""

from __future__ import annotations

import argparse

from nnunet_spine_ext.cli.shell import EXIT_CODES, add_common_options, add_json_option

PROG = "nnUNetv2_spine_harmonize"
FUNCTION = "nnunet_spine_ext.study.harmonization.run:evaluate"

_DESCRIPTION = """Measure harmonizers on slices of every scanner, beside baselines and ablations.

Tables, figures and one page come from one configuration."""
_EXAMPLES = f"""  {PROG} evaluate -o harmonization --preset cpu
  {PROG} evaluate -o harmonization --preset cpu --resume"""


def add_parser(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the sub-command."""
    parser = actions.add_parser(
        "evaluate",
        help="measure harmonizers",
        description=_DESCRIPTION,
        epilog=f"examples:\n{_EXAMPLES}\n\n{EXIT_CODES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(shell_function=FUNCTION)
    parser.add_argument("-o", required=True, metavar="DIR", help="folder for the results")
    parser.add_argument("--preset", default="full", metavar="NAME", help="full, cpu, smoke, or a YAML file")
    parser.add_argument(
        "--set",
        dest="assignments",
        action="extend",
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        help="change settings, repeatable",
    )
    parser.add_argument("--resume", action="store_true", help="go on where it was stopped")
    add_common_options(parser, again=True)
    add_json_option(parser)
