"""``bench loaders`` and ``bench epoch``: loaders alone, and what they cost an epoch."""
