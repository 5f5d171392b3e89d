"""Which trainer the settings of plans are for."""

from __future__ import annotations

from nnunet_spine_ext.core.errors import UsageError
from nnunet_spine_ext.training.domain_settings import DomainSettings, completed_domain
from nnunet_spine_ext.training.finetune_settings import finetune_trainer
from nnunet_spine_ext.training.settings import SpineSettings


def trainer_for(settings: SpineSettings) -> str:
    """Return the name of the trainer that these settings are for; raises what `planned_domain` raises."""
    augment, soft = settings.augment, settings.soft
    if settings.finetune is not None:
        return finetune_trainer(soft=soft is not None)
    domain = planned_domain(settings)
    if domain is not None:
        return _domain_trainer(simulated=domain.simulated)
    if soft is None:
        return "nnUNetTrainerSpine" if augment is None else "nnUNetTrainerSpineShift"
    if soft.loss.name == "soft_dice_bce":
        return "nnUNetTrainerSpineSoftDiceBCE"
    by_preset = {"shift": "ShiftSoft", "contrast-agnostic": "ContrastAgnostic"}
    config = augment.config if augment is not None else None
    return f"nnUNetTrainerSpine{by_preset.get(config, 'Soft') if isinstance(config, str) else 'Soft'}"


def planned_domain(settings: SpineSettings) -> DomainSettings | None:
    """Return the settings of domains as their trainer will complete them; None: nothing is kept out of the features.

    Raises
    ------
    UsageError: soft labels, too.
    SetupError: domains or a loss that the trainer does not have.
    """
    domain = settings.domain
    if domain is None or settings.finetune is not None:
        return None
    if settings.soft is not None:
        raise UsageError(
            "E-TRAINER-DOMAIN",
            file="plans spine_ext.domain",
            found="settings of domains and of soft labels",
            expected="one of the two: no trainer does both",
            fix="leave out domain or soft",
        )
    # Its trainer sets the augmentation of simulated scanners itself where plans have none.
    simulated = domain.simulated or settings.augment is not None
    return completed_domain(domain, _domain_trainer(simulated=simulated), simulated=simulated)


def _domain_trainer(*, simulated: bool) -> str:
    return "nnUNetTrainerSpineShiftDANN" if simulated else "nnUNetTrainerSpineDANN"
