"""Volumes, files, labels, datasets: what every other room stands on."""
