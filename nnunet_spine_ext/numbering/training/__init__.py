"""Training of the network that names vertebrae, from images and numbered instance masks."""
