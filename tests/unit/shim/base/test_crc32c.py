"""CRC32C against its published check value and an independent bitwise implementation."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spdk_ftl_py import _shim

POLYNOMIAL = 0x82F63B78


def bitwise_crc32c(data: bytes) -> int:
    state = 0xFFFFFFFF
    for byte in data:
        state ^= byte
        for _ in range(8):
            state = (state >> 1) ^ (POLYNOMIAL if state & 1 else 0)
    return state ^ 0xFFFFFFFF


def test_check_value_of_the_catalogue() -> None:
    assert _shim.crc32c(b"123456789") == 0xE3069283


def test_iscsi_vectors_of_rfc_3720() -> None:
    assert _shim.crc32c(bytes(32)) == 0x8A9136AA
    assert _shim.crc32c(b"\xff" * 32) == 0x62A8AB43
    assert _shim.crc32c(bytes(range(32))) == 0x46DD794E


@given(st.binary(max_size=300))
def test_agrees_with_a_bitwise_implementation(data: bytes) -> None:
    assert _shim.crc32c(data) == bitwise_crc32c(data)


def test_a_block_long_enough_for_three_streams_agrees_too() -> None:
    data = bytes((i * 7 + i // 256) % 256 for i in range(4096 * 2 + 13))
    for length in (4079, 4080, 4081, 4096, len(data)):
        assert _shim.crc32c(data[:length]) == bitwise_crc32c(data[:length])


@pytest.mark.parametrize("length", [255, 256, 511, 512, 513, 767, 768, 1000, 4097])
@pytest.mark.parametrize("offset", [0, 1, 63])
def test_lengths_around_those_of_wide_registers_agree_too(length: int, offset: int) -> None:
    data = random.Random(length).randbytes(offset + length)[offset:]
    assert _shim.crc32c(data) == bitwise_crc32c(data)
    assert _shim.crc32c(data[7:], _shim.crc32c(data[:7])) == bitwise_crc32c(data)


@given(st.binary(max_size=200), st.binary(max_size=200))
def test_a_seed_continues_what_came_before(head: bytes, tail: bytes) -> None:
    assert _shim.crc32c(tail, _shim.crc32c(head)) == _shim.crc32c(head + tail)
