"""Data sets: the sources they are read from, their cache, class splits and episodes.

`sources.registry.load_dataset` is the way in. Nothing is imported here: training from a cached file
needs neither TFDS nor Pillow nor matplotlib.
"""
