"""Out of memory, which libraries tell in a dozen ways, as one line that says what lacked it. Imports no torch."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from fastiseat.errors import UserError

# In bare RuntimeErrors: of torch on a CPU, of oneDNN that can't lay down its code, of NVIDIA's libraries, and of
# whoever has no room for a thread's stack.
_SAID = re.compile(
    "DefaultCPUAllocator|could not create a primitive$|CUDNN_STATUS_ALLOC_FAILED|CUBLAS_STATUS_ALLOC_FAILED"
    "|can't start new thread|Resource temporarily unavailable"
)
# Of torch on a GPU; of Rust's libraries, whose panics derive from BaseException alone.
_KINDS = ("OutOfMemoryError", "PanicException")


def is_shortage(error: BaseException) -> bool:
    """Whether it, or what it was raised in the handling of, says that memory has run out; no more once that is told."""
    if isinstance(error, UserError):
        return False
    seen: BaseException | None = error
    while seen is not None and not _says_so(seen):
        # A handler that has no memory either fails in its own way: the interpreter's logger in an AttributeError.
        seen = seen.__cause__ or seen.__context__
    return seen is not None


def _says_so(error: BaseException) -> bool:
    if isinstance(error, MemoryError):
        return True
    if type(error).__name__ not in _KINDS:
        return isinstance(error, RuntimeError) and bool(_SAID.search(str(error).strip()))
    return type(error).__name__ != "PanicException" or "pointer is null" in str(error)


@contextmanager
def enough_memory(doing: str, remedy: str) -> Iterator[None]:
    """Turn running out of memory in the block into a :class:`UserError` that says in what, and the remedy."""
    try:
        yield
    except BaseException as error:
        if not is_shortage(error):
            raise
        raise UserError(f"out of memory {doing}: {remedy}") from error
