"""Stands in for NVIDIA Apex: the parts that the adapter uses, on any device."""
