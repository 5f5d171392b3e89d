"""Mean anatomy of an adult spine, the defaults from which `parameters` samples.

Lengths in mm, angles in degrees, areas in mm². Rows are vertebrae; a superior joint belongs to the vertebra below it.
Sources are named per block: *measured* (public per-subject tables), *read* (tables of published series), *design*
(smoothing, interpolation or choice). ``docs/explanation/phantom.md`` names the series.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import NamedTuple

PRESACRAL = (
    *(f"C{i}" for i in range(1, 8)),
    *(f"T{i}" for i in range(1, 13)),
    *(f"L{i}" for i in range(1, 7)),
)
"""Rows of the tables; the position of a row is its continuous level minus one (C1 = level 1.0, L1 = level 20.0)."""

INSTANCE_ID = MappingProxyType(
    {
        **{f"C{i}": i for i in range(1, 8)},
        **{f"T{i}": 7 + i for i in range(1, 13)},
        "T13": 28,
        **{f"L{i}": 19 + i for i in range(1, 7)},
        "S1": 26,
    }
)
"""Instance ids of the spineps scheme; a disc is 100 + n and an endplate 200 + n of the vertebra above it."""


class BodyRow(NamedTuple):
    """Vertebral body: widths and depths of both rims, posterior height, wedge (> 0 = anterior lower)."""

    width_sup: float
    width_inf: float
    depth_sup: float
    depth_inf: float
    height_post: float
    wedge: float


# Widths and depths: direct digitising series; heights: smoothed CT and radiograph series; wedge T9-L5 read.
BODY = MappingProxyType(
    {
        "C2": BodyRow(15.0, 17.5, 13.5, 15.6, 20.0, 0.0),
        "C3": BodyRow(15.8, 17.2, 15.0, 15.6, 14.2, 1.0),
        "C4": BodyRow(17.2, 17.0, 15.3, 15.9, 14.0, 1.0),
        "C5": BodyRow(17.5, 19.4, 15.2, 17.9, 13.6, 2.0),
        "C6": BodyRow(18.5, 22.0, 16.4, 18.5, 13.8, 2.0),
        "C7": BodyRow(21.8, 23.4, 18.1, 16.8, 15.2, 1.0),
        "T1": BodyRow(24.5, 27.8, 18.5, 19.7, 16.9, 2.0),
        "T2": BodyRow(24.9, 27.4, 19.6, 21.6, 18.2, 2.0),
        "T3": BodyRow(24.6, 25.9, 22.7, 23.3, 18.7, 2.6),
        "T4": BodyRow(24.5, 26.0, 23.3, 24.5, 19.2, 3.2),
        "T5": BodyRow(24.9, 27.0, 24.3, 25.8, 19.8, 3.4),
        "T6": BodyRow(26.2, 28.2, 26.0, 26.9, 20.3, 3.4),
        "T7": BodyRow(27.8, 29.1, 27.4, 28.5, 20.9, 3.4),
        "T8": BodyRow(29.5, 30.5, 27.9, 29.4, 21.4, 3.4),
        "T9": BodyRow(30.6, 33.0, 29.3, 31.0, 21.9, 3.8),
        "T10": BodyRow(31.9, 35.4, 30.5, 31.6, 22.8, 3.2),
        "T11": BodyRow(34.9, 39.1, 31.9, 31.8, 23.9, 5.0),
        "T12": BodyRow(39.0, 42.1, 32.8, 33.4, 25.6, 4.2),
        "L1": BodyRow(41.2, 43.3, 34.1, 35.3, 27.2, 3.3),
        "L2": BodyRow(42.6, 45.5, 34.6, 34.9, 27.8, 1.7),
        "L3": BodyRow(44.1, 48.0, 35.2, 34.8, 27.8, 0.1),
        "L4": BodyRow(46.6, 49.5, 35.5, 33.9, 27.0, -1.9),
        "L5": BodyRow(47.3, 49.4, 35.5, 35.0, 26.3, -6.2),
        "L6": BodyRow(47.3, 49.4, 35.5, 35.0, 25.5, -4.0),
    }
)


class ArchRow(NamedTuple):
    """Posterior elements; `facet_*` describe the superior joint, `facet_turn` > 0 = its facet looks laterally."""

    pedicle_width: float
    pedicle_height: float
    pedicle_medial: float
    pedicle_length: float
    tp_span: float
    sp_length: float
    sp_incline: float
    sp_height: float
    sp_thickness: float
    lamina_height: float
    lamina_thickness: float
    facet_half: float
    facet_incline: float
    facet_turn: float
    facet_width: float
    facet_height: float
    canal_width: float
    canal_depth: float


# fmt: off
ARCH = MappingProxyType(
    {   #            pedW  pedH  med   len  span  SPl  SPi  SPh  SPt  lamH  lamT half  incl turn  fW    fH    cW    cD
        "C2":  ArchRow( 8.0,  9.0,  35, 5.0, 52, 19, 15,  9.0, 6.0, 12.0, 5.0, 19.0, 30,   0, 14.0, 13.0, 24.0, 16.5),
        "C3":  ArchRow( 5.6,  7.4,  42, 5.0, 50, 15, 15,  7.5, 4.2, 10.5, 3.2, 21.0, 51, -20, 11.0, 11.0, 24.0, 15.2),
        "C4":  ArchRow( 5.4,  7.4,  45, 5.0, 49, 15, 15,  7.5, 4.2, 10.5, 3.0, 21.0, 45, -12, 11.0, 11.0, 24.5, 15.0),
        "C5":  ArchRow( 5.6,  7.0,  42, 5.0, 47, 16, 18,  8.0, 4.2, 11.0, 3.0, 21.0, 42,   1, 11.5, 11.0, 25.0, 15.0),
        "C6":  ArchRow( 6.0,  7.3,  38, 5.5, 50, 20, 22,  8.5, 4.6, 11.5, 3.5, 20.5, 43,   3, 12.0, 11.0, 25.0, 15.0),
        "C7":  ArchRow( 6.6,  7.5,  30, 6.0, 67, 30, 25, 10.0, 6.5, 13.0, 5.0, 20.0, 47,   4, 12.0, 11.0, 24.5, 15.2),
        "T1":  ArchRow( 8.2,  9.6,  30, 6.5, 75, 34, 30,  9.0, 7.0, 15.0, 6.0, 18.5, 60,  15, 12.0, 11.5, 21.5, 15.4),
        "T2":  ArchRow( 7.5, 11.4,  24, 7.0, 70, 35, 40,  8.5, 6.5, 16.0, 6.2, 16.0, 68,  15, 11.0, 12.0, 19.0, 15.4),
        "T3":  ArchRow( 6.2, 11.9,  18, 7.0, 62, 37, 48,  8.0, 6.5, 17.0, 6.2, 13.5, 72,  15, 10.0, 12.0, 17.5, 15.4),
        "T4":  ArchRow( 5.0, 12.0,  14, 7.0, 60, 38, 53,  8.0, 6.2, 17.5, 6.2, 12.5, 75,  15, 10.0, 12.0, 17.0, 15.4),
        "T5":  ArchRow( 4.6, 11.6,  11, 7.0, 60, 39, 56,  8.0, 6.2, 18.0, 6.2, 12.0, 75,  15, 10.0, 12.0, 17.0, 15.4),
        "T6":  ArchRow( 4.9, 11.8,  10, 7.0, 60, 40, 58,  8.0, 6.2, 18.5, 6.2, 12.0, 76,  15, 10.0, 12.0, 17.0, 15.4),
        "T7":  ArchRow( 5.3, 12.1,  10, 7.0, 60, 41, 57,  8.0, 6.2, 19.0, 6.2, 12.0, 76,  15, 10.0, 12.0, 17.0, 15.6),
        "T8":  ArchRow( 5.8, 12.6,   9, 7.0, 59, 39, 54,  8.5, 6.2, 19.5, 6.2, 12.0, 76,  15, 10.0, 12.0, 17.0, 15.6),
        "T9":  ArchRow( 6.3, 13.7,   8, 7.0, 58, 36, 48,  9.5, 6.2, 20.0, 6.3, 12.0, 77,  15, 10.0, 12.0, 17.5, 15.6),
        "T10": ArchRow( 7.0, 14.8,   6, 7.0, 56, 33, 38, 11.5, 6.4, 20.5, 6.3, 12.2, 77,  15, 10.0, 12.0, 17.5, 15.8),
        "T11": ArchRow( 8.3, 16.5,   2, 7.0, 50, 30, 25, 14.0, 6.6, 21.0, 6.5, 12.6, 78,  15, 10.5, 12.0, 19.0, 16.4),
        "T12": ArchRow( 8.0, 16.2,  -2, 7.0, 46, 29, 16, 17.0, 6.8, 21.0, 6.5, 13.0, 80,  10, 11.5, 12.5, 21.5, 17.2),
        "L1":  ArchRow( 7.5, 15.8,  11, 8.0, 72, 29, 10, 20.0, 7.0, 21.0, 6.5, 13.0, 86, -64, 13.0, 14.0, 22.7, 17.2),
        "L2":  ArchRow( 8.2, 15.2,  12, 8.0, 78, 31,  8, 22.0, 7.0, 21.0, 6.8, 14.0, 86, -60, 14.0, 14.5, 23.0, 16.5),
        "L3":  ArchRow( 9.8, 14.6,  14, 8.0, 87, 32,  6, 23.0, 7.2, 20.0, 7.0, 15.0, 86, -50, 14.5, 15.0, 23.6, 16.0),
        "L4":  ArchRow(12.5, 14.2,  18, 8.0, 82, 30,  6, 21.0, 7.5, 18.5, 7.0, 16.5, 86, -43, 15.0, 15.5, 24.7, 16.2),
        "L5":  ArchRow(16.1, 12.9,  28, 8.0, 88, 23, 10, 16.0, 7.5, 16.0, 6.5, 19.0, 86, -34, 16.0, 16.0, 28.2, 16.0),
        "L6":  ArchRow(16.1, 12.9,  28, 8.0, 88, 22, 10, 15.0, 7.5, 15.0, 6.5, 20.0, 86, -36, 16.0, 16.0, 28.5, 16.0),
        "S1":  ArchRow( 0.0,  0.0,   0, 0.0,  0,  0,  0,  0.0, 0.0,  0.0, 0.0, 21.5, 84, -38, 16.0, 16.0, 29.0, 15.5),
    }
)
# fmt: on

DISC_HEIGHT = MappingProxyType(
    dict(
        zip(
            PRESACRAL[1:],
            (
                *(4.8, 5.3, 5.6, 5.4, 5.6, 5.0),
                *(4.5, 3.9, 3.6, 3.6, 3.6, 4.2, 4.6, 5.0, 5.4, 5.9, 6.5, 7.3),
                *(8.3, 9.6, 10.6, 11.4, 10.4, 10.0),
            ),
            strict=True,
        )
    )
)
"""Central height of the disc below each vertebra (read anchors, smoothed)."""

SEGMENT_LORDOSIS = (1.2, 5.9, 9.1, 12.7, 21.6)
"""Lordosis of body + disc below, L1/2 … L5/S1, of the 50.5 degrees in all of them (read, n = 324)."""

PFIRRMANN_WEIGHT = MappingProxyType(
    {"L4": 1.0, "L5": 1.0, "L6": 1.0, "L3": 0.6, "L2": 0.4, "L1": 0.3, "C5": 1.0, "C6": 0.8, "C4": 0.7, "C3": 0.5}
)
"""How much a disc (named by the vertebra above) degenerates relative to L4/5; 0.2 where it is not listed."""

# Cord area and AP/RL ratio by continuous level. Measured: C1-T4 n = 203, T5-T12 n = 58; below T10 design, so that the
# conus tip (level 20.25 here) carries the taper with it.
CORD_LEVEL = (
    *(0.4, *range(1, 19)),
    *(18.6, 19.0, 19.4, 19.75, 20.0, 20.15, 20.25),
)
CORD_AREA = (
    *(75.0, 74.0, 71.7, 72.5, 77.3, 76.4, 69.1, 56.8),
    *(46.8, 41.8, 37.9, 36.3, 35.1, 34.9, 35.5, 37.3, 39.3, 42.5, 48.8, 51.0, 48.5, 40.0, 26.0, 13.0, 4.5, 0.5),
)
CORD_RATIO = (
    *(0.74, 0.73, 0.67, 0.63, 0.59, 0.58, 0.57, 0.60),
    *(0.67, 0.70, 0.71, 0.71, 0.72, 0.74, 0.75, 0.77, 0.80, 0.80, 0.80, 0.81, 0.82, 0.86, 0.90, 0.92, 0.95, 1.0),
)
CORD_TIP_LEVEL = 20.25
CORD_EXPONENT = 2.2
GREY_FRACTION_LEVEL = (1, 3, 4, 5, 7, 8, 10, 17, 18, 19, 20.25)
GREY_FRACTION = (0.16, 0.19, 0.20, 0.19, 0.18, 0.17, 0.17, 0.18, 0.23, 0.32, 0.4)

# Dural sac (what label 12 holds with the cord): measured C1-T5 (n = 203), template T6-L1, lumbar design.
SAC_LEVEL = (0.0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26)
SAC_AREA = (
    *(330.0, 294, 252, 210, 206, 208, 200, 195),
    *(182.0, 161, 151, 143, 140, 129, 132, 136, 137, 142, 160, 186),
    *(198.0, 188, 178, 182, 186, 138, 50),
)
SAC_RATIO = (
    *(0.72, 0.69, 0.65, 0.63, 0.61, 0.60, 0.61, 0.65),
    *(0.72, 0.79, 0.83, 0.87, 0.88, 0.93, 0.96, 0.96, 0.90, 0.90, 0.93, 0.88),
    *(0.88, 0.88, 0.86, 0.83, 0.78, 0.72, 0.72),
)
SAC_EXPONENT = 2.2

# Sacrum: heights, widths and depths of S1-S5 bodies, half-width of the lateral mass, bend after each segment.
SACRUM_HEIGHT = (30.0, 25.0, 21.0, 18.0, 16.0)
SACRUM_WIDTH = (50.0, 34.0, 28.0, 24.0, 20.0)
SACRUM_DEPTH = (33.0, 20.0, 14.0, 11.0, 9.0)
SACRUM_HALF_SPAN = (54.0, 47.0, 38.0, 30.0, 20.0)
SACRUM_BEND = (0.15, 0.25, 0.30, 0.20, 0.10)
SACRUM_CANAL_DEPTH = (15.0, 11.0, 8.0, 5.5, 4.0)
