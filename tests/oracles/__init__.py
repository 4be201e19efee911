"""Slow, obvious references that the fast code is tested against."""
