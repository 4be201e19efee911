"""What every part of a pipeline agrees on: batches, order, augmentation, sources, releases."""
