"""Centreline, cross-sectional area of the cord, centroids and volumes."""

from nnunet_spine_ext.measure.centreline import Centreline, centreline, fit_centreline
from nnunet_spine_ext.measure.centroids import centroids, read_poi, write_poi
from nnunet_spine_ext.measure.cross_section import CrossSection, cross_sectional_area
from nnunet_spine_ext.measure.csa_levels import LevelSections, average_levels, parse_levels
from nnunet_spine_ext.measure.levels import (
    levels_from_discs,
    levels_from_instances,
    levels_from_labels,
    levels_from_points,
)
from nnunet_spine_ext.measure.volumes import volumes

__all__ = [
    "Centreline",
    "CrossSection",
    "LevelSections",
    "average_levels",
    "centreline",
    "centroids",
    "cross_sectional_area",
    "fit_centreline",
    "levels_from_discs",
    "levels_from_instances",
    "levels_from_labels",
    "levels_from_points",
    "parse_levels",
    "read_poi",
    "volumes",
    "write_poi",
]
