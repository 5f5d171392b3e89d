"""Arrays to pictures: slices in the right proportions, overlays, contact sheets, PNG."""
