"""The anatomical parameters of one digital spine, as frozen dataclasses (what is drawn before any geometry exists)."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Pathology:
    """One finding; `pathology.apply` turns it into edits of the other parameters.

    `level` is a vertebra ('T12') or, for disc findings, the vertebra above the disc. `severity` runs from 0 to 1.
    """

    kind: str
    level: str
    severity: float = 0.5
    side: str = ""


@dataclass(frozen=True)
class Lesion:
    """Sphere of another tissue in a body: `centre` in fractions of the half width, half depth and half height."""

    tissue: str
    centre: tuple[float, float, float]
    radius: float


@dataclass(frozen=True)
class VertebraParameters:
    """One presacral vertebra in its own frame (mm, degrees). Pairs are (left, right); wedge > 0 = anterior lower."""

    name: str
    level: float
    width_sup: float
    width_inf: float
    depth_sup: float
    depth_inf: float
    height_post: float
    wedge: float
    coronal_wedge: float
    concavity_sup: float
    concavity_inf: float
    waist_width: float
    waist_depth: float
    exponent: float
    notch: float
    uncus: float
    pedicle_width: tuple[float, float]
    pedicle_height: float
    pedicle_medial: float
    pedicle_length: float
    tp_span: tuple[float, float]
    sp_length: float
    sp_incline: float
    sp_height: float
    sp_thickness: float
    lamina_height: float
    lamina_thickness: float
    facet_half: tuple[float, float]
    facet_incline: float
    facet_turn: tuple[float, float]
    facet_width: float
    facet_height: float
    canal_width: float
    canal_depth: float
    rib_length: float = 0.0
    facet_hypertrophy: float = 0.0
    osteophyte_sup: float = 0.0
    osteophyte_inf: float = 0.0
    modic_sup: str = ""
    modic_inf: str = ""
    schmorl_sup: float = 0.0
    schmorl_inf: float = 0.0
    dens_height: float = 0.0
    dens_tilt: float = 0.0
    lesions: tuple[Lesion, ...] = ()

    @property
    def depth(self) -> float:
        """Mean depth of the body in mm."""
        return 0.5 * (self.depth_sup + self.depth_inf)

    @property
    def width(self) -> float:
        """Mean width of the body in mm."""
        return 0.5 * (self.width_sup + self.width_inf)


@dataclass(frozen=True)
class DiscParameters:
    """The disc below vertebra `above`; `lordosis` > 0 = anterior taller; `state` 'normal', 'fused' or 'missing'."""

    above: str
    height: float
    lordosis: float
    lateral: float = 0.0
    axial: float = 0.0
    grade: int = 1
    bulge: float = 0.0
    protrusion: float = 0.0
    protrusion_side: float = 0.0
    slip: float = 0.0
    fissure: bool = False
    state: str = "normal"


@dataclass(frozen=True)
class SacrumParameters:
    """Sacrum S1-S5: `heights`, `widths`, `depths` of the bodies, lateral half spans, kyphosis in degrees."""

    heights: tuple[float, ...]
    widths: tuple[float, ...]
    depths: tuple[float, ...]
    half_spans: tuple[float, ...]
    kyphosis: float
    crest: float
    rudimentary_disc: float
    coccyx: int


@dataclass(frozen=True)
class CordParameters:
    """Cord and dural sac: `factor` scales areas, `residual` per level 1..25, levels of conus and end of the sac."""

    factor: float
    residual: tuple[float, ...]
    sac_factor: float
    sac_residual: tuple[float, ...]
    conus_level: float
    sac_end: float
    narrowing: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True)
class BodyParameters:
    """What surrounds the spine (mm): body mass index, fat thickness behind, muscle fat fraction, vessels' side."""

    bmi: float
    fat_back: float
    skin: float
    muscle_fat: float
    trunk_scale: float


@dataclass(frozen=True, kw_only=True)
class Angles:
    """How a spine is bent, in degrees: `lordosis` L1-S1, `kyphosis` T1-T12, `cervical` C2-C7, `scoliosis` Cobb."""

    pelvic_incidence: float
    sacral_slope: float
    lordosis: float
    kyphosis: float
    cervical: float
    scoliosis: float

    @property
    def pelvic_tilt(self) -> float:
        """Pelvic tilt in degrees: pelvic incidence = pelvic tilt + sacral slope."""
        return self.pelvic_incidence - self.sacral_slope


@dataclass(frozen=True, kw_only=True)
class SpineParameters(Angles):
    """Every anatomical parameter of one spine; equal parameters give equal spines.

    `names` and `vertebrae` run from C1 down, `discs[i]` lies below `vertebrae[i + 1]` (C2 is the first with a disc).
    """

    seed: int
    sex: str
    age: float
    stature: float
    names: tuple[str, ...]
    anomaly: str
    vertebrae: tuple[VertebraParameters, ...]
    discs: tuple[DiscParameters, ...]
    sacrum: SacrumParameters
    cord: CordParameters
    body: BodyParameters
    pathologies: tuple[Pathology, ...] = ()

    @property
    def counts(self) -> dict[str, int]:
        """Number of vertebrae per region, e.g. ``{"C": 7, "T": 12, "L": 5}``."""
        return {region: sum(name[0] == region for name in self.names) for region in "CTL"}

    def vertebra(self, name: str) -> VertebraParameters:
        """Return the parameters of one vertebra. Raises KeyError for a name this spine does not have."""
        for vertebra in self.vertebrae:
            if vertebra.name == name:
                return vertebra
        raise KeyError(name)

    def disc(self, above: str) -> DiscParameters:
        """Return the disc below the vertebra `above`. Raises KeyError where there is none."""
        for disc in self.discs:
            if disc.above == above:
                return disc
        raise KeyError(above)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain JSON types."""
        return _plain(asdict(self))


def _plain(value: Any) -> Any:
    """Turn tuples into lists and numpy scalars into Python numbers, recursively."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value.item() if hasattr(value, "item") else value
