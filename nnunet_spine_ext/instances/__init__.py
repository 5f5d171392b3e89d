"""Semantic masks to separate vertebrae, discs and endplates."""

from nnunet_spine_ext.instances.interface import InstanceResult, InstanceSettings, separate

__all__ = ["InstanceResult", "InstanceSettings", "separate"]
