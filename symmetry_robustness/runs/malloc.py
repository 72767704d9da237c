"""How this process keeps memory."""

import ctypes
from typing import Final

# Names and numbers of glibc's malloc.h.
_TRIM_THRESHOLD: Final = -1
_MMAP_THRESHOLD: Final = -3
_GIGABYTE: Final = 2**30


def keep_freed_memory() -> None:
    """Let the process keep up to a gigabyte that tensors have freed, for the next ones.

    By default glibc hands large blocks back at once, and the kernel clears their pages at the next use; networks on a
    CPU spend up to a third of their time on that. Where the C library is another one nothing happens.
    Source: mallopt(3).
    """
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is not None:
        set_option(_MMAP_THRESHOLD, _GIGABYTE)
        set_option(_TRIM_THRESHOLD, _GIGABYTE)
