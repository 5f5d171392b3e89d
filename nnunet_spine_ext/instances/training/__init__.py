"""Training of the network that separates vertebrae, from semantic and instance masks alone."""
