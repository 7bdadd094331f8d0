"""A time limit for a wait."""

from __future__ import annotations

import sys
from contextlib import AbstractAsyncContextManager

if sys.version_info >= (3, 11):
    from asyncio import timeout
else:
    from async_timeout import timeout


def time_limit(seconds: float | None) -> AbstractAsyncContextManager[object]:
    """Raises asyncio.TimeoutError out of `async with` if the body takes longer than that. None: no limit.

    This replaces asyncio.wait_for(). Before Python 3.12 that loses a cancellation that comes together with the result:
    the caller goes on as if it had not been cancelled.
    """
    limit: AbstractAsyncContextManager[object] = timeout(seconds)
    return limit
