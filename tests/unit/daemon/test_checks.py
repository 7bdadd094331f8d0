"""Small rules of the daemon: listen addresses and the size of emulated zones."""

from __future__ import annotations

import pytest

from spdk_ftl_py.daemon.checks import require_two_bdevs, split_address, zone_size_of
from spdk_ftl_py.errors import ParameterError


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("127.0.0.1", ("127.0.0.1", 0)),
        ("127.0.0.1:4420", ("127.0.0.1", 4420)),
        ("0.0.0.0:65535", ("0.0.0.0", 65535)),
        ("[::1]", ("::1", 0)),
        ("[fe80::1]:4420", ("fe80::1", 4420)),
    ],
)
def test_listen_addresses_are_split(address: str, expected: tuple[str, int]) -> None:
    assert split_address(address) == expected


@pytest.mark.parametrize("address", ["", ":5", "host", "host:5", "1.2.3", "127.0.0.1:65536", "127.0.0.1:x", "[::1"])
def test_what_is_no_listen_address_is_refused(address: str) -> None:
    with pytest.raises(ParameterError, match="must be ADDRESS or ADDRESS:PORT"):
        split_address(address)


@pytest.mark.parametrize(("capacity", "size"), [(1, 1), (2, 2), (3, 4), (192, 256), (256, 256), (257, 512)])
def test_the_size_of_an_emulated_zone_is_a_power_of_two(capacity: int, size: int) -> None:
    assert zone_size_of(capacity) == size


def test_a_cache_that_is_the_base_is_refused() -> None:
    with pytest.raises(ParameterError, match=r"cache bdev .* is also the base bdev: give another one"):
        require_two_bdevs("Cache0", "Cache0")
    require_two_bdevs("Cache0", "Nvme0n1")
