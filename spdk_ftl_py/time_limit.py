"""A limit to how long something is waited for."""

from __future__ import annotations

import sys
from contextlib import AbstractAsyncContextManager

if sys.version_info >= (3, 11):
    from asyncio import timeout
else:
    from async_timeout import timeout


def time_limit(seconds: float | None) -> AbstractAsyncContextManager[object]:
    """Raises asyncio.TimeoutError, out of `async with`, when its body takes longer; None: it may take any time.

    In place of asyncio.wait_for(), which before Python 3.12 loses a cancellation that comes together with the result:
    the caller goes on as if nobody had asked it to end.
    """
    limit: AbstractAsyncContextManager[object] = timeout(seconds)
    return limit
