"""A digital spine: anatomy, tissues, images, truth."""
