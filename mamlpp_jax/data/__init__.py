"""Data sets, class splits and the sources they are read from.

``load.load_dataset`` is the way in. Nothing is imported here: a machine that trains from a cached
file needs neither TFDS nor Pillow nor matplotlib.
"""
