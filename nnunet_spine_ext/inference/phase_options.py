"""What is done to a semantic mask after the network that made it, and what a run refuses to do."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnunet_spine_ext.core.config import load_config, set_by_path
from nnunet_spine_ext.core.errors import UsageError
from nnunet_spine_ext.core.io import sha256
from nnunet_spine_ext.core.labels import MAPPINGS, scheme

if TYPE_CHECKING:
    from nnunet_spine_ext.instances.cutout_inference import InferenceOptions
    from nnunet_spine_ext.instances.interface import InstanceSettings
    from nnunet_spine_ext.numbering.interface import NumberingSettings

_CORPUS = 10
_PARTS = ("instances", "numbering", "network")


@dataclass(frozen=True)
class PhaseOptions:
    """The phases of a run; `completed` fills in what one of them needs of the others.

    Parameters
    ----------
    instances: separate vertebrae, discs and endplates.
    instance_model: folder of an instance network; None: without a network.
    numbering: give instances anatomical numbers.
    numbering_model: folder of a classifier of levels; None: from anchors.
    first_vertebra: level of the uppermost vertebra in the picture, such as ``L1``.
    enforce: 12 thoracic and 5 lumbar vertebrae, no anomaly.
    levels_scheme: label scheme of masks of levels that are given besides.
    snapshots: a picture per case.
    bids: results under names of the BIDS-derivatives kind as well.
    settings: assignments such as ``instances.smoothing_mm=25``; the first word is the phase: ``instances``,
        ``numbering`` or ``network`` (how the instance network runs).
    """

    instances: bool = False
    instance_model: str | None = None
    numbering: bool = False
    numbering_model: str | None = None
    first_vertebra: str | None = None
    enforce: bool = False
    snapshots: bool = False
    bids: bool = False
    settings: tuple[str, ...] = ()
    levels_scheme: str = "instances"

    def completed(self, *, anchored: bool = False) -> PhaseOptions:
        """Return the options with numbering where a model, a level or an anchor asks for it, and then instances."""
        numbering = self.numbering or anchored or any((self.numbering_model, self.first_vertebra, self.enforce))
        instances = self.instances or numbering or self.snapshots or self.instance_model is not None
        return replace(self, numbering=numbering, instances=instances)

    @property
    def needs_image(self) -> bool:
        """Whether a case cannot be done without its image; raises SetupError for a numbering model that is none."""
        if self.numbering_model is None:
            return False
        from nnunet_spine_ext.numbering.model import read_numbering_model

        return read_numbering_model(self.numbering_model).crop.inputs != "masks"

    def models(self) -> dict[str, dict[str, str]]:
        """Return folder and digest of the networks of the phases, for the record of a run."""
        folders = {"instances": self.instance_model, "numbering": self.numbering_model}
        return {
            name: {"folder": Path(folder).name, "sha256": folder_digest(folder)}
            for name, folder in folders.items()
            if folder
        }

    def identity(self) -> dict[str, Any]:
        """Return what decides the results: the options, with the content of model folders in place of their paths."""
        facts = asdict(self)
        for name in ("instance_model", "numbering_model"):
            facts[name] = folder_digest(facts[name]) if facts[name] else None
        return facts

    def instance_settings(self) -> InstanceSettings:
        """Return the settings of the instance step; raises UsageError for an unknown key or a wrong value."""
        from nnunet_spine_ext.instances.interface import InstanceSettings

        return load_config(InstanceSettings, self._chosen()["instances"], where="--set instances")

    def numbering_settings(self) -> NumberingSettings:
        """Return the settings of the numbering; raises UsageError for an unknown key, level or rule."""
        from nnunet_spine_ext.numbering.interface import NumberingSettings

        chosen = self._chosen()["numbering"]
        if self.first_vertebra is not None:
            chosen["first_vertebra"] = self.first_vertebra
        if self.enforce:
            chosen["rules"] = {**(chosen.get("rules") or {}), "enforce": True}
        return load_config(NumberingSettings, chosen, where="--set numbering")

    def network_settings(self, device: str) -> InferenceOptions:
        """Return how the instance network runs; raises UsageError for an unknown key or a wrong value."""
        from nnunet_spine_ext.instances.cutout_inference import InferenceOptions

        return load_config(InferenceOptions, self._chosen()["network"] | {"device": device}, where="--set network")

    def refuse_idle_settings(self) -> None:
        """Raise UsageError for settings of a phase that does not run: left out in silence they would seem to count."""
        chosen = self._chosen()
        for part, runs, fix in (
            ("numbering", self.numbering, "add --numbering"),
            ("network", self.instance_model is not None, "add --instance-model"),
        ):
            if chosen[part] and not runs:
                raise UsageError(
                    "E-CONFIG-IDLE",
                    file="--set",
                    found=f"settings of {part}, which does not run: {', '.join(map(str, chosen[part]))}",
                    expected="settings of what is done",
                    fix=f"{fix}, or leave them out",
                )

    def _chosen(self) -> dict[str, dict[str, Any]]:
        chosen: dict[str, Any] = {}
        for assignment in self.settings:
            if assignment.partition(".")[0] not in _PARTS:
                raise UsageError(
                    "E-CONFIG-SET",
                    file="--set",
                    found=repr(assignment),
                    expected="instances.KEY=VALUE, numbering.KEY=VALUE or network.KEY=VALUE",
                    fix="put the phase before the key",
                )
            set_by_path(chosen, assignment)
        return {part: dict(chosen.get(part) or {}) for part in _PARTS}


def phases_of(
    instances: bool,
    numbering: bool,
    models: tuple[str | Path | None, str | Path | None],
    first_vertebra: str | None,
    *,
    enforce: bool,
    snapshots: bool,
    bids: bool,
) -> PhaseOptions:
    """Return the phases that a command was asked for; `models` are those of instances and numbering."""
    instance_model, numbering_model = (None if folder is None else str(folder) for folder in models)
    return PhaseOptions(
        instances, instance_model, numbering, numbering_model, first_vertebra, enforce, snapshots, bids
    ).completed()


def check_phases(options: PhaseOptions, scheme_name: str, *, images: bool = True) -> None:
    """Refuse, without PyTorch, what cannot work for any case.

    Parameters
    ----------
    scheme_name: label scheme of the masks.
    images: whether the run has images.

    Raises
    ------
    UsageError: unknown settings, levels or rules; a numbering model without images. SetupError: no such model,
        or one that this version cannot read.
    """
    options.instance_settings()
    options.network_settings("auto")
    options.refuse_idle_settings()
    if options.numbering:
        options.numbering_settings()
        _check_level(options)
    if options.instance_model is not None:
        from nnunet_spine_ext.instances.encoding import check_encoding
        from nnunet_spine_ext.instances.model import read_instance_model

        check_encoding(read_instance_model(options.instance_model).cutout.encoding, scheme_name)
    if options.needs_image and not images:
        raise UsageError(
            "E-USE-IMAGES",
            file="--numbering-model",
            found="a model that looks at images, and no images",
            expected="--images with the images that the masks belong to",
            fix="add --images, or number without a model",
        )


def _check_level(options: PhaseOptions) -> None:
    from nnunet_spine_ext.numbering.levels import level_index

    scheme(options.levels_scheme)
    if options.first_vertebra is not None:
        level_index(options.first_vertebra, option="--first-vertebra")


def schemes_with_bodies() -> list[str]:
    """Return the label schemes whose masks can be separated: with vertebral bodies, or whole vertebrae and a canal."""
    from nnunet_spine_ext.instances.whole import TABLES

    bodies = {a for (a, b), row in MAPPINGS.items() if b == "nnunet14" and _CORPUS in row.table.values()}
    return ["nnunet14", *sorted(bodies), *TABLES]


def bodies_of(scheme_name: str) -> set[int]:
    """Return the ids of bodies, or of whole vertebrae, in a scheme of `schemes_with_bodies`."""
    from nnunet_spine_ext.instances.whole import TABLES

    if scheme_name == "nnunet14":
        return {_CORPUS}
    table = TABLES.get(scheme_name) or MAPPINGS[scheme_name, "nnunet14"].table
    return {key for key, value in table.items() if value == _CORPUS}


def folder_digest(folder: str | Path) -> str:
    """Return a SHA-256 over the names and contents of the files of a folder, hidden ones left out."""
    digest = hashlib.sha256()
    for path in sorted(p for p in Path(folder).rglob("*") if p.is_file() and not p.name.startswith(".")):
        digest.update(f"{path.relative_to(folder).as_posix()}\0{sha256(path)}\0".encode())
    return digest.hexdigest()
