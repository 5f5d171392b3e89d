"""A cycle-consistent network that makes slices look like those of a target, with segmentation and radiomic losses."""
