"""`nnUNetv2_spine_import_instances`: take over an instance model of SPINEPS."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from nnunet_spine_ext.cli.shell import add_json_option, make_parser, run

PROG = "nnUNetv2_spine_import_instances"
FUNCTION = "nnunet_spine_ext.instances.spineps:import_spineps"

_EXAMPLES = f"""  {PROG} -i instance_sagittal_weights.ckpt -o models/spineps_instances
  # the folder as SPINEPS downloads it, with inference_config.json
  {PROG} -i ~/spineps/models/instance_sagittal -o models/spineps_instances"""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser."""
    parser = make_parser(
        PROG,
        "Turn a checkpoint of SPINEPS' instance network into an instance model (safetensors). The checkpoint is read\n"
        "without running any code that it may carry.",
        _EXAMPLES,
    )
    parser.add_argument(
        "-i", dest="checkpoint", required=True, metavar="FILE", help="the checkpoint, or the folder that holds it"
    )
    parser.add_argument("-o", dest="out", required=True, metavar="DIR", help="folder of the new instance model")
    add_json_option(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    return run(build_parser(), FUNCTION, argv)
