"""Identify pages: layouts (NVM Express Base 2.0 section 5.17, NVM and ZNS Command Sets), builders and checked parsers."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import numpy as np

from ..errors import ProtocolError
from . import wire

NSID_LIST_MAX = 1024
LBADS_MIN, LBADS_MAX = 9, 16
"""512 B to 64 KiB; anything else is not a block size we take from a peer."""
METADATA_BYTES_MAX = 64
UNLIMITED_ZONES = 0xFFFFFFFF


def _layout(fields: dict[str, tuple[int, str]], itemsize: int) -> np.dtype[np.void]:
    names = list(fields)
    return np.dtype(
        {  # type: ignore[call-overload]
            "names": names,
            "formats": [fields[name][1] for name in names],
            "offsets": [fields[name][0] for name in names],
            "itemsize": itemsize,
        }
    )


CONTROLLER = _layout(
    {
        "vid": (0, "<u2"),
        "ssvid": (2, "<u2"),
        "sn": (4, "S20"),
        "mn": (24, "S40"),
        "fr": (64, "S8"),
        "rab": (72, "u1"),
        "cmic": (76, "u1"),
        "mdts": (77, "u1"),
        "cntlid": (78, "<u2"),
        "ver": (80, "<u4"),
        "oaes": (92, "<u4"),
        "ctratt": (96, "<u4"),
        "cntrltype": (111, "u1"),
        "oacs": (256, "<u2"),
        "acl": (258, "u1"),
        "aerl": (259, "u1"),
        "frmw": (260, "u1"),
        "lpa": (261, "u1"),
        "elpe": (262, "u1"),
        "npss": (263, "u1"),
        "wctemp": (266, "<u2"),
        "cctemp": (268, "<u2"),
        "kas": (320, "<u2"),
        "sqes": (512, "u1"),
        "cqes": (513, "u1"),
        "maxcmd": (514, "<u2"),
        "nn": (516, "<u4"),
        "oncs": (520, "<u2"),
        "fuses": (522, "<u2"),
        "fna": (524, "u1"),
        "vwc": (525, "u1"),
        "awun": (526, "<u2"),
        "awupf": (528, "<u2"),
        "acwu": (532, "<u2"),
        "sgls": (536, "<u4"),
        "mnan": (540, "<u4"),
        "subnqn": (768, "S256"),
        "ioccsz": (1792, "<u4"),
        "iorcsz": (1796, "<u4"),
        "icdoff": (1800, "<u2"),
        "fcatt": (1802, "u1"),
        "msdbd": (1803, "u1"),
        "psd0_mp": (2048, "<u2"),
    },
    wire.PAGE_BYTES,
)

NAMESPACE = _layout(
    {
        "nsze": (0, "<u8"),
        "ncap": (8, "<u8"),
        "nuse": (16, "<u8"),
        "nsfeat": (24, "u1"),
        "nlbaf": (25, "u1"),
        "flbas": (26, "u1"),
        "mc": (27, "u1"),
        "dpc": (28, "u1"),
        "dps": (29, "u1"),
        "nmic": (30, "u1"),
        "rescap": (31, "u1"),
        "dlfeat": (33, "u1"),
        "nawun": (34, "<u2"),
        "nawupf": (36, "<u2"),
        "nacwu": (38, "<u2"),
        "nabsn": (40, "<u2"),
        "nabo": (42, "<u2"),
        "nabspf": (44, "<u2"),
        "noiob": (46, "<u2"),
        "nguid": (104, "V16"),
        "eui64": (120, "V8"),
        "lbaf": (128, np.dtype([("ms", "<u2"), ("lbads", "u1"), ("rp", "u1")]).descr, (64,)),
    }
    if False
    else {
        "nsze": (0, "<u8"),
    },
    wire.PAGE_BYTES,
)
