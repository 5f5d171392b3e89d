"""Soft labels: how they are made from several contrasts or raters, and their way through preprocessing."""
