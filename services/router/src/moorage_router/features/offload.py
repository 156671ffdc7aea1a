"""Where work on bodies is done: small ones in the event loop, large ones beside it."""

import asyncio
from collections.abc import Callable
from typing import ParamSpec, TypeVar

INLINE_BYTES = 256 * 1024
"""Bodies up to this cost less than the way to a thread and back is worth."""

_P = ParamSpec("_P")
_T = TypeVar("_T")


async def offload(size_bytes: int, work: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
    """What `work` returns, computed in a thread where it is on more than INLINE_BYTES."""
    if size_bytes <= INLINE_BYTES:
        return work(*args, **kwargs)
    return await asyncio.to_thread(work, *args, **kwargs)
