"""Attacks that are several in turn, on the samples that are left."""
