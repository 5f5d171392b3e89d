"""Which kind of file somebody gave where another kind is read, and what takes it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from nnunet_spine_ext.core.errors import UsageError

Kind = Literal["configuration", "profile"]

_WANTED: dict[Kind, str] = {
    "configuration": "a configuration of augmentation",
    "profile": "the profile of a scanner",
}
_PARTS = ("clean", "scanners", "schedule", "transforms")
# Kinds by the keys that they have, with what takes them.
_BY_KEYS: tuple[tuple[tuple[str, ...], str, str], ...] = (
    (("kind", "record"), "the record of a sheet", "nnUNetv2_spine_augment --replay takes it"),
    (("field_strength", "te", "tr"), _WANTED["profile"], "`scanners: {profiles: […]}` or --profile take it"),
    (("configurations", "plans_name"), "plans of nnU-Net", "nnUNetv2_spine_augment --plans takes them"),
    *(((key,), _WANTED["configuration"], "--config takes it") for key in _PARTS),
)
_OF_PEERS = ("a configuration of SmaugLab or AugLab", "convert it first: nnUNetv2_spine_augment --import")


def refuse_other_kind(source: Mapping[str, Any], where: str, wanted: Kind) -> None:
    """Raise UsageError for the content of a file that is known to be of another kind than is read here."""
    if any(str(key) in ("CPU", "GPU") or str(key).endswith(("Transform", "TransformGPU")) for key in source):
        kind, use = _OF_PEERS
    else:
        known = ((kind, use) for keys, kind, use in _BY_KEYS if source.keys() >= {*keys})
        kind, use = next(known, (_WANTED[wanted], ""))
    if kind != _WANTED[wanted]:
        raise UsageError("E-CONFIG-KIND", file=where, found=kind, expected=_WANTED[wanted], fix=use)
