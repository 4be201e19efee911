"""The version, alone in its file: the build and ``fastiseat --version`` read it without importing torch."""

__version__ = "0.1.0"
