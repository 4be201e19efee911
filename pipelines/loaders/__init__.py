"""Loaders of batches, one file each, and the choice among them."""
