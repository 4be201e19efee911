"""``bench step``: one training step by every variant and method."""
