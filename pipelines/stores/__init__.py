"""Prepared data on the disk: arrays, encoded images, betons, and their checksums."""
