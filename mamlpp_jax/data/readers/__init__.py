"""Reading images out of folders, archives, pickles and prepared TFDS directories."""
