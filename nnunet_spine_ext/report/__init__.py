"""The quality report: one HTML file per prediction folder that opens from disk without any network."""
