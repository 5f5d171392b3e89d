"""Losses in pure torch, without nnU-Net: for soft labels, between domains, of radiomic features."""
