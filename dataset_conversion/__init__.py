"""Converters: one module per kind of source, each making an nnU-Net raw dataset."""
