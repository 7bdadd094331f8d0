"""File descriptors are raised to what is allowed, and some are kept from strangers."""

from __future__ import annotations

import resource
from collections.abc import Iterator

import pytest

from spdk_ftl_py.runtime.descriptors import KEPT, WANTED, descriptors_for_strangers, raise_descriptor_limit


@pytest.fixture(autouse=True)
def limits() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_the_soft_limit_is_raised() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, hard))
    most = WANTED if hard == resource.RLIM_INFINITY else min(hard, WANTED)
    assert raise_descriptor_limit() == most
    assert descriptors_for_strangers() == most - KEPT


def test_half_of_few_are_kept() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (300, hard))
    assert descriptors_for_strangers() == 150
