"""T1w protocols of vendors: ranges that a publication states, and the scanner that each is assumed to be.

A protocol of one scan is drawn from the ranges. What the publication does not state (noise, coils, reconstruction) is
that of a scanner profile; the table (`data/vendors_t1w.yaml`) says which.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from nnunet_spine_ext.augment.profiles import REFERENCE, Profile, Scanner, Severities, load_profile
from nnunet_spine_ext.core.config import load_config, nearest, read_mapping
from nnunet_spine_ext.core.errors import UsageError
from nnunet_spine_ext.phantom.protocols import PROTOCOLS, Protocol
from nnunet_spine_ext.phantom.scan import ScanRequest

TABLE = Path(__file__).parent / "data" / "vendors_t1w.yaml"
TARGET = "siemens-essenza"
"""The vendor whose style the publication brings all others to."""

# What a vendor's protocol is not said to have is that of our own clinical ones.
_BASE = {1.5: "t1w_sagittal_15t", 3.0: "t1w_sagittal"}
# The signal-to-noise ratio of T1w scans at the reference scanner.
_SNR_OF = "t1w_sagittal"
# Pixels as large as this are painted twice as finely, and slices in slabs no thicker than that.
_FINE_MM, _SLAB_MM = 0.55, 1.6


@dataclass(frozen=True)
class Ranges:
    """Lowest and highest value of a protocol as published; lengths in mm, times in ms, tesla, degrees."""

    spacing_between_slices: tuple[float, float]
    slice_thickness: float
    pixel_spacing: tuple[float, float]
    tr: tuple[float, float]
    te: tuple[float, float]
    field_strength: float
    echo_train: tuple[int, int]
    flip: float


@dataclass(frozen=True)
class Vendor:
    """A vendor's T1w scans.

    Parameters
    ----------
    name: key of the table. manufacturer, model: as DICOM would name them. slices: how many the publication has.
    healthy: its people have no findings. scanner: name of the scanner profile that it is assumed to be. normalised:
        range of the part of the coils' shading that it is assumed to remove.
    protocol: None where the publication does not state it.
    """

    name: str
    manufacturer: str
    model: str
    slices: int
    healthy: bool = False
    scanner: str = REFERENCE
    normalised: tuple[float, float] = (0.15, 0.95)
    protocol: Ranges | None = None

    def draw(self, rng: np.random.Generator, *, finest: float | None = None, severity: float = 1.0) -> Protocol:
        """Draw the protocol of one scan, each value uniformly within its range.

        The acquired pixel is that of the profile, or the stored one where that is larger. The centre of k-space is at
        the first echo, so echoes are TE apart. The flip angle is recorded alone: signal equations of refocusing trains
        do not have it.

        Parameters
        ----------
        finest: pixels are stored no finer than this (mm), which makes large matrices quick; acquired ones stay.
        severity: how far what is assumed of the scanner goes from the target's scanner: 0 is that of the target, 1 as
            assumed, at most 4. What is published stays.

        Raises
        ------
        UsageError: the publication does not state the protocol; a severity outside its limits.
        """
        ranges = self.protocol
        if ranges is None:
            raise UsageError(
                "E-PHANTOM-VENDOR",
                file=self.name,
                found="a vendor whose protocol is not published",
                expected=f"one of {', '.join(vendor_names())}",
                fix="choose another vendor",
            )
        reference = load_profile(REFERENCE)
        profile = Scanner(
            load_profile(self.scanner), Severities.all(severity), load_profile(vendors()[TARGET].scanner)
        ).shifted
        distance = round(float(rng.uniform(*ranges.spacing_between_slices)), 2)
        pixel = round(float(rng.uniform(*ranges.pixel_spacing)), 3)
        tr, te = (round(float(rng.uniform(*span)), 1) for span in (ranges.tr, ranges.te))
        echoes = int(rng.integers(ranges.echo_train[0], ranges.echo_train[1] + 1))
        stored = pixel if finest is None else max(pixel, finest)
        base = PROTOCOLS[_BASE[ranges.field_strength]]
        acquired = max(profile.in_plane, pixel) / stored
        return replace(
            base,
            name=self.name,
            description=f"{self.manufacturer} {self.model}",
            spacing=(stored, stored, distance),
            gap=max(0.0, 1 - ranges.slice_thickness / distance),
            tr=tr,
            te=te,
            train=round(echoes * te, 1),
            flip=ranges.flip,
            field_strength=ranges.field_strength,
            snr=_snr(profile, reference, ranges.field_strength),
            # The larger the stored pixel, the less it can blur: never below it.
            resolution=(
                max(1.0, base.resolution[0] * acquired),
                max(1.0, base.resolution[1] * acquired * profile.gibbs / reference.gibbs),
                1.0,
            ),
            window=profile.window - reference.window,
            gain=profile.contrast / reference.contrast,
            bias=max(0.0, profile.bias - reference.bias),
            g_factor=max(1.0, profile.g_factor / reference.g_factor),
            coils=profile.coils_at_a_place,
            normalised=self.normalised,
            scatter=0.0,
        )

    def facts(self, protocol: Protocol) -> dict[str, Any]:
        """Return what cases.json says about a scan beside what it says of every phantom."""
        echoes = round(protocol.train / protocol.te)
        return {
            "manufacturer": self.manufacturer,
            "model": self.model,
            "vendor": self.name,
            "echo_train": echoes,
            "flip": protocol.flip,
            "pixel_spacing": protocol.spacing[0],
            "spacing_between_slices": protocol.spacing[2],
            "slice_thickness": round(protocol.spacing[2] * (1 - protocol.gap), 2),
        }


@cache
def vendors() -> Mapping[str, Vendor]:
    """Return all vendors of the table by name, those without a protocol too."""
    rows = read_mapping(TABLE)["vendors"]
    return MappingProxyType(
        {name: load_config(Vendor, {"name": name, **row}, where=f"{TABLE.name}: {name}") for name, row in rows.items()}
    )


def vendor_names() -> tuple[str, ...]:
    """Return the vendors of which phantoms can be made, the target first."""
    return tuple(name for name, row in vendors().items() if row.protocol is not None)


def vendor(name: str) -> Vendor:
    """Return a vendor by name; raises UsageError with the nearest name for an unknown one."""
    found = vendors().get(name)
    if found is None:
        raise UsageError(
            "E-PHANTOM-VENDOR",
            file=name,
            found=f"no vendor {name!r}",
            expected=f"one of {', '.join(vendor_names())}",
            fix=nearest(name, vendor_names()),
        )
    return found


def at_vendor(
    request: ScanRequest, name: str, index: int, *, finest: float | None = None, severity: float = 1.0
) -> ScanRequest:
    """Return how a vendor scans spine `index`: its protocol depends on vendor, seed and spine alone.

    Parameters
    ----------
    request: what stays: seed, region, width, tilt, anatomy; its protocols are replaced. Healthy vendors have no
        findings; sub-voxels are chosen for thick slices where the request leaves them open.
    finest, severity: see `Vendor.draw`.

    Raises
    ------
    UsageError: an unknown vendor, or one without a published protocol.
    """
    row = vendor(name)
    rng = np.random.default_rng((request.seed, index, zlib.crc32(f"vendor {name}".encode())))
    protocol = row.draw(rng, finest=finest, severity=severity)
    return replace(
        request,
        protocols=(protocol,),
        pathologies=request.pathologies and not row.healthy,
        supersample=request.supersample or sub_voxels(protocol),
        facts=row.facts(protocol),
    )


def sub_voxels(protocol: Protocol) -> tuple[int, int, int]:
    """Return sub-voxels per voxel and axis that are enough for thick slices: quick, and at most 1.6 mm across them."""
    plane = 2 if protocol.spacing[0] >= _FINE_MM else 1
    return plane, plane, math.ceil(protocol.spacing[2] / _SLAB_MM - 1e-6)


def _snr(profile: Profile, reference: Profile, field_strength: float) -> float:
    """Return the signal-to-noise ratio: that of the reference in proportion to the field and the profile's own noise.

    The profile's noise is that of its own voxel, which the scans are assumed to have been acquired with.
    """
    own = profile.noise / reference.noise * profile.field_strength / reference.field_strength
    base = PROTOCOLS[_SNR_OF]
    return base.snr * field_strength / base.field_strength / own
