"""Evaluation of harmonization: what each part of it gives for segmentation and for radiomic features."""
