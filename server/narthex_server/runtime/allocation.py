"""What to say when memory runs out, and how to give it back."""

import ctypes
import errno
import gc
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from narthex_server.errors import ResourceExhausted
from narthex_server.memory import available

_ALLOCATION = re.compile(r"bad_alloc|[Ff]ailed to allocate memory|out of memory")
"""What ONNX Runtime says when an allocation fails; it has no class of its own for that."""


def check_room(needed: int) -> None:
    """Errors: ResourceExhausted, with the numbers, where so many bytes are certainly not there."""
    free = available()
    if free is not None and needed > free:
        raise ResourceExhausted(
            f"the weights take {needed} bytes, and {free} bytes of memory are available; unload another model, or "
            "quantise this one further",
            reason="OUT_OF_MEMORY",
            metadata={"needed_bytes": str(needed), "available_bytes": str(free)},
        )


@contextmanager
def allocating() -> Iterator[None]:
    """Tell an allocation that failed inside the block as ResourceExhausted, whoever made it and called it otherwise."""
    try:
        yield
    except ResourceExhausted:
        raise
    except Exception as error:
        if not any(map(_is_allocation, _causes(error))):
            raise
        free = available()
        said = "" if free is None else f"; {free} bytes are available"
        raise ResourceExhausted(
            f"not enough memory for the model with its slots and context{said}; ask for fewer, or unload another model",
            reason="OUT_OF_MEMORY",
            metadata={} if free is None else {"available_bytes": str(free)},
        ) from error


def trim() -> None:
    """Give memory that is no longer used back to the system, which glibc alone does not do by itself.

    At the end of a thread's arena it keeps up to 64 MiB all the same.
    """
    gc.collect()
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _is_allocation(error: BaseException) -> bool:
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    runtimes = type(error).__module__.startswith("onnxruntime")
    return isinstance(error, MemoryError) or (runtimes and _ALLOCATION.search(str(error)) is not None)
