"""Short programs on the library alone: other inputs than images, other networks, other inner loops."""
