"""Verdicts sample by sample: confirmed, saved, gone on from."""
