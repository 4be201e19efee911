"""Weight files of every origin, read without executing them, and written."""
