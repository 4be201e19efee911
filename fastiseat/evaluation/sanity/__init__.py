"""Signs of masked gradients."""
