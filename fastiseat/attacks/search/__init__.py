"""Attacks that search sample by sample: a start and a step, each sample by its own clock."""
