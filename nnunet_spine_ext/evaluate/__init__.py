"""Metrics, matching and tables."""
