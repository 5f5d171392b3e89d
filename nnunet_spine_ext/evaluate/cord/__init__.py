"""Evaluation of the cord's cross-sectional area: reading, pooling over slices, statistics, tables, drift."""
