"""A protocol of the phantom on another scanner: what a profile changes relative to its reference.

A scanner at severity 0 changes nothing, bit by bit: all draws of a spine stay what they were.
"""

from __future__ import annotations

from dataclasses import replace

from nnunet_spine_ext.augment.profiles import Scanner
from nnunet_spine_ext.core.errors import UsageError
from nnunet_spine_ext.phantom.protocols import Protocol
from nnunet_spine_ext.phantom.tissues import tissue_properties

_SMALLEST_SNR = 1.0
_SPACING_LIMITS = (0.2, 12.0)


def at_scanner(protocol: Protocol, scanner: Scanner) -> Protocol:
    """Return the protocol as the scanner runs it.

    Voxels, gap and reconstruction change by the ratio of the profile to the reference, the field goes from that of the
    protocol to that of the profile, noise by both. TR and TE change for T2w turbo spin echo alone, because these are
    the profile's; the inversion time of STIR follows the fat.

    Raises
    ------
    UsageError: a CT protocol, which no magnetic-resonance scanner runs.
    """
    if protocol.sequence == "ct":
        raise UsageError(
            "E-PHANTOM-OPTION",
            found=f"--scanner {scanner.text} with --protocol {protocol.name}",
            expected="protocols of magnetic resonance",
            fix="make CT in a run of its own, without --scanner",
        )
    new, old, severity = scanner.shifted, scanner.reference, scanner.severities
    field = protocol.field_strength
    if severity.field > 0:
        field *= (scanner.profile.field_strength / field) ** severity.field
        field = min(max(field, 0.2), 7.0)
    # What the profile's noise is beyond that of its field.
    noise = new.noise / old.noise * new.field_strength / old.field_strength
    weighted = protocol.contrast == "T2w" and protocol.sequence == "tse"
    return replace(
        protocol,
        field_strength=field,
        tr=protocol.tr * (new.tr / old.tr if weighted else 1.0),
        te=protocol.te * (new.te / old.te if weighted else 1.0),
        ti=_inversion(protocol, field),
        snr=max(_SMALLEST_SNR, protocol.snr * (field / protocol.field_strength) / noise),
        spacing=_spacing(protocol, scanner),
        gap=min(max(protocol.gap + new.gap - old.gap, 0.0), 0.8) if not protocol.volume else protocol.gap,
        resolution=_resolution(protocol, scanner),
        window=protocol.window + new.window - old.window,
        gain=new.contrast / old.contrast,
        bias=max(0.0, new.bias - old.bias),
        g_factor=max(1.0, new.g_factor / old.g_factor),
        coils=new.coils_at_a_place,
    )


def _spacing(protocol: Protocol, scanner: Scanner) -> tuple[float, float, float]:
    """Return the stored voxel: the acquired one, which the reconstruction interpolates in plane."""
    new, old = scanner.shifted, scanner.reference
    fill = new.zero_fill / old.zero_fill
    plane = new.in_plane / old.in_plane / fill
    ratios = (plane, plane, new.slice / old.slice)
    low, high = _SPACING_LIMITS
    first, second, third = (
        min(max(size * ratio, low), high) for size, ratio in zip(protocol.spacing, ratios, strict=True)
    )
    return first, second, third


def _resolution(protocol: Protocol, scanner: Scanner) -> tuple[float, float, float]:
    """Return acquired over stored voxel; phase encoding, coarser on scanners that ring, is the second axis."""
    new, old = scanner.shifted, scanner.reference
    fill, phase = new.zero_fill / old.zero_fill, new.gibbs / old.gibbs
    first, second, third = protocol.resolution
    return first * fill, second * fill * phase, third


def _inversion(protocol: Protocol, field: float) -> float:
    if protocol.sequence != "ir" or field == protocol.field_strength:
        return protocol.ti
    return protocol.ti * tissue_properties(field).fat_t1 / tissue_properties(protocol.field_strength).fat_t1
