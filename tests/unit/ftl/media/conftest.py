"""Fixtures of the tests of media (media_rig.py)."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager

import pytest

from spdk_ftl_py import _shim
from spdk_ftl_py.ftl.media.blockdev import BlockPort
from spdk_ftl_py.runtime.reactor import ReactorLoop
from support.async_tests import rig_options
from unit.ftl.media.media_rig import ZONE_CAPACITY, ZONE_SIZE, ZONES, opened_port


@pytest.fixture
def media(reactor: ReactorLoop, request: pytest.FixtureRequest) -> _shim.EmulatedMedia:
    return _shim.EmulatedMedia.zns(reactor.shim, ZONES, ZONE_SIZE, ZONE_CAPACITY, **rig_options(request))


@pytest.fixture
def port(reactor: ReactorLoop, media: _shim.EmulatedMedia) -> AbstractAsyncContextManager[BlockPort]:
    return opened_port(reactor, media)
