"""The doors to files: one to read what others may have made, one to write what is ours, one to quote foreign text,
one for the places that users name.
"""

from fastiseat.safe.own_folder import LEFT_BEHIND, OwnFolder, open_lock
from fastiseat.safe.paths import expanded, resolved
from fastiseat.safe.reading import open_file, read_file
from fastiseat.safe.text import lines, one_line, plain
from fastiseat.safe.writing import write_atomically

__all__ = [
    "LEFT_BEHIND",
    "OwnFolder",
    "expanded",
    "lines",
    "one_line",
    "open_file",
    "open_lock",
    "plain",
    "read_file",
    "resolved",
    "write_atomically",
]
