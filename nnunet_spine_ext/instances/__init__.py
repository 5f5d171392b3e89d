"""Semantic masks to separate vertebrae, discs and endplates."""
