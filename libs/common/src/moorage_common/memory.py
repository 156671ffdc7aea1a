"""How this process uses memory for buffers of some hundred kilobytes, which the data plane takes and gives back by the
thousand."""

import contextlib
import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_KEPT_BYTES = 64 * 1024 * 1024
_MAPPED_BYTES = 32 * 1024 * 1024


def keep_buffers() -> None:
    """Let glibc keep freed buffers instead of returning each to the kernel, which would clear every page of the next.

    Up to 64 MiB stay with the process; nothing happens with another libc. See mallopt(3).
    """
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_THRESHOLD, _MAPPED_BYTES)
        libc.mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)
