"""Settings of domain-adversarial training under ``plans["spine_ext"]["domain"]``."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from nnunet_spine_ext.core.errors import SetupError, UsageError
from nnunet_spine_ext.losses.domain import DomainLossSettings

SIMULATED = "simulated"
"""The key of domains that are not read from cases.json: the simulated scanner of a sample."""
DEFAULT_KEY = "manufacturer"
LARGEST_PROBE = 1000


@dataclass(frozen=True)
class DomainSettings:
    """What a domain is, and how it is kept out of the features; by the trainers called …DANN.

    Parameters
    ----------
    key: what a case's domain is: a fact of cases.json, or several joined by ``+``, such as
        ``manufacturer+field_strength``; ``simulated``: the scanner that the augmentation simulates. None is
        ``manufacturer``, or ``simulated`` for nnUNetTrainerSpineShiftDANN.
    target: domains whose masks are never used, neither to train nor to choose the best checkpoint. Cases without masks
        need not be named.
    labelled_share: of every batch, at least, has cases whose masks are used; 0: one sample. Domains share what is left.
    loss: name, strength and schedule; see `losses.domain.DomainLossSettings`.
    probe_every: epochs between linear probes of the frozen features; 0: one at the end.
    probe_patches: patches per case, or per scanner and case, that a probe sees.

    Raises
    ------
    UsageError: an empty key, simulated targets, or a number outside its limits.
    """

    key: str | None = None
    target: tuple[str, ...] = ()
    labelled_share: float = 0.5
    loss: DomainLossSettings = field(default_factory=DomainLossSettings)
    probe_every: int = 0
    probe_patches: int = 4

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        wrong = [] if self.key is None or all(self.parts) else [f"key={self.key!r}"]
        wrong += [f"target={list(self.target)} of simulated scanners"] if self.simulated and self.target else []
        wrong += [] if 0 <= self.labelled_share <= 1 else [f"labelled_share={self.labelled_share}"]
        wrong += [] if self.probe_every >= 0 else [f"probe_every={self.probe_every}"]
        wrong += [] if 1 <= self.probe_patches <= LARGEST_PROBE else [f"probe_patches={self.probe_patches}"]
        if wrong:
            raise UsageError(
                "E-CONFIG-RANGE",
                file="domain settings",
                found=", ".join(wrong),
                expected=f"facts joined by +, targets of cases.json, labelled_share from 0 to 1, probe_every from 0, "
                f"probe_patches from 1 to {LARGEST_PROBE}",
                fix="correct the value",
            )

    @property
    def parts(self) -> tuple[str, ...]:
        """The facts of cases.json that make a domain."""
        return tuple(part.strip() for part in (DEFAULT_KEY if self.key is None else self.key).split("+"))

    @property
    def simulated(self) -> bool:
        """Whether the domain is the simulated scanner."""
        return self.key == SIMULATED


def completed_domain(settings: DomainSettings | None, trainer: str, *, simulated: bool) -> DomainSettings:
    """Return the settings with their key written out; raises SetupError when the trainer has other domains.

    So it is for `paired` where a patch cannot be shown as two domains.
    """
    settings = settings or DomainSettings()
    key = settings.key or (SIMULATED if simulated else DEFAULT_KEY)
    if (key == SIMULATED) != simulated:
        what = "simulated scanners" if simulated else "facts of cases.json"
        other = "nnUNetTrainerSpineDANN" if simulated else "nnUNetTrainerSpineShiftDANN"
        raise SetupError(
            "E-TRAINER-DOMAIN",
            file="plans spine_ext.domain.key",
            found=f"{key!r} for {trainer}",
            expected=f"its domains: {what}",
            fix=f"leave domain.key out, or train with -tr {other}",
        )
    if settings.loss.paired and not simulated:
        raise SetupError(
            "E-TRAINER-DOMAIN",
            file="plans spine_ext.domain.loss.name",
            found=f"{settings.loss.name!r} for {trainer}, whose patches are taken by one scanner each",
            expected="scanners that are simulated, so that two can take the same patch",
            fix="plan with domain.loss.name=coral, or with --preset shift-dann for nnUNetTrainerSpineShiftDANN",
        )
    return replace(settings, key=key)


def refuse_domain_settings(settings: DomainSettings | None, trainer: str) -> None:
    """Raise SetupError when plans ask for domains and the trainer does not know them."""
    if settings is not None:
        raise SetupError(
            "E-TRAINER-DOMAIN",
            file="plans spine_ext.domain",
            found=f"settings of domains, which {trainer} does not tell apart",
            expected="a domain-adversarial trainer",
            fix="train with -tr nnUNetTrainerSpineDANN or nnUNetTrainerSpineShiftDANN, or with plans without domain",
        )
