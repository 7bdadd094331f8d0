"""Signals end a program in order, or not at all."""

from __future__ import annotations

import asyncio
import signal

import pytest

from spdk_ftl_py.runtime.signals import ENDING, OTHERS, on_signals


@pytest.mark.parametrize("number", [*ENDING, *OTHERS])
async def test_each_signal_reaches_who_it_is_for(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    ended: list[signal.Signals] = []
    others: list[signal.Signals] = []
    with on_signals(ended.append, others.append):
        signal.raise_signal(number)
        while not ended and not others:  # noqa: ASYNC110
            await asyncio.sleep(0)
    assert (ended, others) == (([number], []) if number in ENDING else ([], [number]))
    # asyncio.run() has a handler of its own for SIGINT, which no other can be followed by.
    assert number is signal.SIGINT or signal.getsignal(number) == before


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGQUIT])
async def test_what_is_ignored_at_the_start_goes_on_being_ignored(number: signal.Signals) -> None:
    ended: list[signal.Signals] = []
    before = signal.signal(number, signal.SIG_IGN)
    try:
        with on_signals(ended.append):
            signal.raise_signal(number)
            signal.raise_signal(signal.SIGTERM)
            while not ended:  # noqa: ASYNC110
                await asyncio.sleep(0)
        assert ended == [signal.SIGTERM]
        assert signal.getsignal(number) == signal.SIG_IGN
    finally:
        signal.signal(number, before)
