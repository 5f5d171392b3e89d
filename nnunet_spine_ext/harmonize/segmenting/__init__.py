"""Training of a segmenter of slices: settings, loop, scores."""
