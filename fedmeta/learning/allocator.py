"""Makes the C library keep freed memory for reuse."""

import ctypes
import sys

_M_TRIM_THRESHOLD = -1
_KEPT_BYTES = 1 << 30
_M_TOP_PAD = -2
_PAD_BYTES = 256 << 20
_M_MMAP_MAX = -4


def keep_freed_memory() -> None:
    """Ask glibc to keep freed memory, up to 1 GiB at the heap's end; does nothing without glibc.

    A meta-gradient allocates and frees the same tens of megabytes each time. By default glibc returns
    them to the system, which costs thousands of page faults a step and up to a third of the time of
    Conv4: blocks of over 32 MiB are mapped anew each time, unless no block is. See ``M_MMAP_MAX``,
    ``M_TRIM_THRESHOLD`` and ``M_TOP_PAD`` in mallopt(3). What is freed below a block in use stays, so
    that a process is as large as it ever was.
    """
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(_M_MMAP_MAX, 0)
        libc.mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)
        libc.mallopt(_M_TOP_PAD, _PAD_BYTES)
