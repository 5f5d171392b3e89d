"""Findings as edits of parameters (never of voxels): which ones exist, how often, and what each changes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from nnunet_spine_ext.core.errors import UsageError
from nnunet_spine_ext.phantom.model import (
    DiscParameters,
    Lesion,
    Pathology,
    SpineParameters,
    VertebraParameters,
)
from nnunet_spine_ext.phantom.tables import PFIRRMANN_WEIGHT

Edit = Callable[[SpineParameters, Pathology], SpineParameters]


def apply(spine: SpineParameters, findings: Sequence[Pathology]) -> SpineParameters:
    """Return the spine with `findings` applied in order and listed in `pathologies`.

    Raises UsageError for an unknown kind or for a level that the spine does not have.
    """
    for finding in findings:
        if finding.kind not in EDITS:
            raise UsageError(
                "E-PHANTOM-FINDING", found=f"kind {finding.kind!r}", expected=", ".join(EDITS), fix="correct the name"
            )
        if finding.level not in spine.names[1:] and finding.kind != "stenosis":
            raise UsageError(
                "E-PHANTOM-LEVEL",
                found=f"{finding.kind} at {finding.level!r}",
                expected=f"one of {', '.join(spine.names[1:])}",
                fix="name a vertebra of this spine; a disc is named by the vertebra above it",
            )
        spine = EDITS[finding.kind](spine, finding)
    return replace(spine, pathologies=(*spine.pathologies, *findings))


def _edit_vertebra(spine: SpineParameters, name: str, **changes: object) -> SpineParameters:
    """Replace fields of one vertebra."""
    vertebrae = tuple(replace(v, **changes) if v.name == name else v for v in spine.vertebrae)  # type: ignore[arg-type]
    return replace(spine, vertebrae=vertebrae)


def _edit_disc(spine: SpineParameters, above: str, **changes: object) -> SpineParameters:
    """Replace fields of one disc; where there is no disc (below C1) nothing changes."""
    discs = tuple(replace(d, **changes) if d.above == above else d for d in spine.discs)  # type: ignore[arg-type]
    return replace(spine, discs=discs)


def _below(spine: SpineParameters, name: str) -> str:
    """Return the next lower presacral vertebra, or '' below the last."""
    index = spine.names.index(name) + 1
    return spine.names[index] if index < len(spine.names) else ""


def _fracture(spine: SpineParameters, finding: Pathology, share: tuple[float, float, float]) -> SpineParameters:
    """Lower the anterior, middle and posterior height; `share` is the part of the height loss each takes (Genant)."""
    v = spine.vertebra(finding.level)
    loss = 0.20 + 0.28 * finding.severity
    anterior = v.height_post - v.depth * np.tan(np.deg2rad(v.wedge))
    new_ant, new_post = anterior * (1 - loss * share[0]), v.height_post * (1 - loss * share[2])
    dent = 0.5 * (anterior + v.height_post) * loss * share[1] - 0.5 * (anterior + v.height_post - new_ant - new_post)
    wedge = float(np.clip(np.rad2deg(np.arctan2(new_post - new_ant, v.depth)), -25.0, 25.0))
    return _edit_vertebra(
        spine,
        v.name,
        height_post=float(new_post),
        wedge=wedge,
        concavity_sup=v.concavity_sup + 0.65 * max(0.0, float(dent)),
        concavity_inf=v.concavity_inf + 0.35 * max(0.0, float(dent)),
        modic_sup="oedema" if finding.side == "acute" else v.modic_sup,
    )


def _osteophyte(spine: SpineParameters, finding: Pathology) -> SpineParameters:
    """Rims of the two bodies that face a disc grow outwards by 1.5 to 6 mm."""
    size = 1.5 + 4.5 * finding.severity
    spine = _edit_vertebra(spine, finding.level, osteophyte_inf=size)
    below = _below(spine, finding.level)
    return _edit_vertebra(spine, below, osteophyte_sup=size) if below else spine


def _degeneration(spine: SpineParameters, finding: Pathology) -> SpineParameters:
    """Disc of grade IV (severity < 0.6: 10-30 % lower) or V (50-70 % lower)."""
    disc = spine.disc(finding.level)
    collapsed = finding.severity >= 0.6
    loss = 0.5 + 0.2 * (finding.severity - 0.6) / 0.4 if collapsed else 0.1 + 0.2 * finding.severity / 0.6
    return _edit_disc(
        spine,
        finding.level,
        grade=5 if collapsed else 4,
        height=disc.height * (1 - loss),
        lordosis=disc.lordosis * (1 - 0.5 * loss),
    )


def _bulge(spine: SpineParameters, finding: Pathology) -> SpineParameters:
    """Disc outline grows by 1-3 mm all round."""
    return _edit_disc(spine, finding.level, bulge=1.0 + 2.0 * finding.severity)


def _protrusion(spine: SpineParameters, finding: Pathology) -> SpineParameters:
    """Focal bulge of 2.5-5 mm behind, in the middle or to one side."""
    side = {"L": -1.0, "R": 1.0}.get(finding.side, 0.0)
    size = 2.5 + 2.5 * finding.severity
    changes = {"protrusion": size, "protrusion_side": side, "fissure": finding.severity > 0.5}
    return _edit_disc(spine, finding.level, **changes)


def _listhesis(spine: SpineParameters, finding: Pathology) -> SpineParameters:
    """The vertebra slips forward (side 'retro': backward) on the one below by 6-25 % of the depth."""
    v = spine.vertebra(finding.level)
    slip = v.depth_inf * (0.06 + 0.19 * finding.severity)
    return _edit_disc(spine, finding.level, slip=-0.5 * slip if finding.side == "retro" else slip)


def _stenosis(spine: SpineParameters, finding: Pathology) -> SpineParameters:
    """Sac area at the disc falls to 80-35 % and the facets grow by 1-3 mm."""
    level = spine.vertebra(finding.level).level + 0.5
    narrowing = (*spine.cord.narrowing, (level, 0.8 - 0.45 * finding.severity))
    spine = replace(spine, cord=replace(spine.cord, narrowing=narrowing))
    below = _below(spine, finding.level)
    if not below:
        return spine
    return _edit_vertebra(spine, below, facet_hypertrophy=1.0 + 2.0 * finding.severity)


def _haemangioma(spine: SpineParameters, finding: Pathology) -> SpineParameters:
    """Bright sphere in the body; its place follows from severity and side, so that no chance is left."""
    v = spine.vertebra(finding.level)
    lateral = {"L": -0.4, "R": 0.4}.get(finding.side, 0.1)
    radius = min(0.2 + 0.25 * finding.severity, 0.45) * v.height_post
    lesion = Lesion("haemangioma", (lateral, 0.3 - 0.5 * finding.severity, 0.1), float(radius))
    return _edit_vertebra(spine, v.name, lesions=(*v.lesions, lesion))


def _modic(tissue: str) -> Edit:
    """Return the edit that turns the marrow beside a disc into `tissue`."""

    def edit(spine: SpineParameters, finding: Pathology) -> SpineParameters:
        spine = _edit_vertebra(spine, finding.level, modic_inf=tissue)
        below = _below(spine, finding.level)
        return _edit_vertebra(spine, below, modic_sup=tissue) if below else spine

    return edit


def _schmorl(spine: SpineParameters, finding: Pathology) -> SpineParameters:
    """Pit of 3-6 mm in the lower endplate (side 'sup': in the upper one)."""
    radius = 3.0 + 3.0 * finding.severity
    return _edit_vertebra(spine, finding.level, **{f"schmorl_{'sup' if finding.side == 'sup' else 'inf'}": radius})


def _state(state: str) -> Edit:
    """Return the edit for a fused pair ('fused': bone across the gap) or an absent disc ('missing': a thin gap)."""

    def edit(spine: SpineParameters, finding: Pathology) -> SpineParameters:
        disc = spine.disc(finding.level)
        height = min(2.2, 0.55 * disc.height) if state == "fused" else min(2.4, disc.height)
        return _edit_disc(
            spine, finding.level, state=state, height=height, lordosis=0.3 * disc.lordosis, slip=0.0, bulge=0.0
        )

    return edit


EDITS: dict[str, Edit] = {
    "fracture_wedge": lambda s, f: _fracture(s, f, (1.0, 0.6, 0.05)),
    "fracture_biconcave": lambda s, f: _fracture(s, f, (0.3, 1.0, 0.1)),
    "fracture_crush": lambda s, f: _fracture(s, f, (1.0, 1.0, 0.7)),
    "osteophyte": _osteophyte,
    "degeneration": _degeneration,
    "bulge": _bulge,
    "protrusion": _protrusion,
    "listhesis": _listhesis,
    "stenosis": _stenosis,
    "haemangioma": _haemangioma,
    "modic1": _modic("oedema"),
    "modic2": _modic("modic_fat"),
    "modic3": _modic("sclerosis"),
    "schmorl": _schmorl,
    "fused": _state("fused"),
    "missing_disc": _state("missing"),
}
"""Every kind of finding and its edit."""


def draw(rng: np.random.Generator, spine: SpineParameters) -> list[Pathology]:
    """Draw findings at rates that follow age, sex and level."""
    findings: list[Pathology] = []
    years = float(np.clip((spine.age - 20.0) / 60.0, 0.0, 1.0))
    for disc in spine.discs:
        findings += _disc_findings(rng, disc, years)
    for vertebra in spine.vertebrae[1:]:
        findings += _body_findings(rng, vertebra, spine, years)
    findings += _rare_findings(rng, spine, years)
    return findings


def _disc_findings(rng: np.random.Generator, disc: DiscParameters, years: float) -> list[Pathology]:
    """Degeneration and what comes with it at one disc; every draw is made, so that levels do not shift each other."""
    weight = PFIRRMANN_WEIGHT.get(disc.above, 0.2)
    u, severity = rng.random(7), rng.random(7)
    found: list[Pathology] = []
    degenerate = u[0] < 0.65 * weight * (0.08 + 0.92 * years)
    if degenerate:
        found.append(Pathology("degeneration", disc.above, float(severity[0] ** 2)))
    if u[1] < weight * (0.10 + 0.45 * years):
        found.append(Pathology("bulge", disc.above, float(severity[1])))
    if u[2] < 0.18 * weight:
        found.append(Pathology("protrusion", disc.above, float(severity[2]), "LR-"[int(3 * u[3])].strip("-")))
    if u[4] < (0.8 if degenerate else 0.15) * years:
        found.append(Pathology("osteophyte", disc.above, float(severity[4])))
    if degenerate and u[5] < 0.2:
        kind = ("modic2", "modic2", "modic1", "modic3")[int(4 * severity[5])]
        found.append(Pathology(kind, disc.above, 0.5))
    if degenerate and disc.above[0] != "T" and u[6] < 0.2 * years:
        found.append(Pathology("stenosis", disc.above, float(severity[6])))
    return found


def _body_findings(
    rng: np.random.Generator, vertebra: VertebraParameters, spine: SpineParameters, years: float
) -> list[Pathology]:
    """Fracture, haemangioma and Schmorl's node of one vertebra."""
    u, severity = rng.random(4), rng.random(3)
    found: list[Pathology] = []
    peak = max(np.exp(-(((vertebra.level - 14.5) / 1.5) ** 2)), np.exp(-(((vertebra.level - 19.3) / 1.0) ** 2)))
    rate = (0.06 if spine.sex == "F" else 0.035) * max(0.0, years - 0.3) * float(peak) + 0.001
    if vertebra.level >= 9 and u[0] < rate:
        kind = ("fracture_wedge", "fracture_wedge", "fracture_biconcave", "fracture_crush")[int(4 * u[3])]
        found.append(Pathology(kind, vertebra.name, float(severity[0]), "acute" if severity[1] < 0.3 else ""))
    if vertebra.level >= 8 and u[1] < 0.008:
        found.append(Pathology("haemangioma", vertebra.name, float(severity[1]), "LR"[int(2 * u[3])]))
    if 15 <= vertebra.level <= 22 and u[2] < 0.03:
        found.append(Pathology("schmorl", vertebra.name, float(severity[2]), "sup" if u[3] < 0.5 else ""))
    return found


def _rare_findings(rng: np.random.Generator, spine: SpineParameters, years: float) -> list[Pathology]:
    """Slips of the lower lumbar spine, block vertebrae and absent discs: at most one of each."""
    u, severity = rng.random(6), rng.random(3)
    found: list[Pathology] = []
    last = [name for name in spine.names if name[0] == "L"]
    if u[0] < 0.02 + 0.06 * years:
        found.append(Pathology("listhesis", last[-2] if u[1] < 0.6 else last[-1], float(severity[0])))
    if u[2] < 0.012:
        level = "C2" if u[3] < 0.4 else spine.names[1 + int(u[3] * (len(spine.names) - 3))]
        found.append(Pathology("fused", level, float(severity[1])))
    if u[4] < 0.006:
        found.append(Pathology("missing_disc", last[int(u[5] * (len(last) - 1))], float(severity[2])))
    return found
