"""Centreline, centroids and volumes."""

from nnunet_spine_ext.measure.centreline import Centreline, centreline, fit_centreline
from nnunet_spine_ext.measure.centroids import centroids, read_poi, write_poi
from nnunet_spine_ext.measure.volumes import volumes

__all__ = ["Centreline", "centreline", "centroids", "fit_centreline", "read_poi", "volumes", "write_poi"]
