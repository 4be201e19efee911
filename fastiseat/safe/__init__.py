"""The doors to files: one to read what others may have made, one to write what is ours, one to quote foreign text."""

from fastiseat.safe.own_folder import OwnFolder, open_lock
from fastiseat.safe.reading import open_file, read_file
from fastiseat.safe.text import lines, one_line, plain
from fastiseat.safe.writing import write_atomically

__all__ = ["OwnFolder", "lines", "one_line", "open_file", "open_lock", "plain", "read_file", "write_atomically"]
