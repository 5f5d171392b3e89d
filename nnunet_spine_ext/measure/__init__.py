"""Centreline, centroids and volumes."""
