"""Rigs of the tests of FtlDevice; folders below have their own."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager, AsyncExitStack

import pytest

from spdk_ftl_py import _shim
from spdk_ftl_py.runtime.reactor import ReactorLoop
from support.async_tests import rig_options
from unit.ftl.ftl_rig import FtlRig, MakeFtlRig, ftl_rig, zns_drive


@pytest.fixture
def rig(reactor: ReactorLoop, request: pytest.FixtureRequest) -> AbstractAsyncContextManager[FtlRig]:
    return ftl_rig(reactor, **rig_options(request))


@pytest.fixture
def make_rig(reactor: ReactorLoop, rigs: AsyncExitStack) -> MakeFtlRig:
    return lambda **options: rigs.enter_async_context(ftl_rig(reactor, **options))


@pytest.fixture
def media(reactor: ReactorLoop, request: pytest.FixtureRequest) -> _shim.EmulatedMedia:
    """A ZNS drive without an FTL."""
    return zns_drive(reactor, **rig_options(request))
