"""Losses for soft labels in pure torch: of tensors and a validity mask, without nnU-Net."""
