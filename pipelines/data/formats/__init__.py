"""Readers of data sets as they are released, one file a format."""
