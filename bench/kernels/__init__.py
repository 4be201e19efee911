"""``bench kernels``: each op by each of its backends."""
