"""Intensity references."""
