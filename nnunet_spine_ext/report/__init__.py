"""The HTML quality report."""
