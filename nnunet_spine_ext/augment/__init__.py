"""MR acquisition physics in pure torch."""
