"""How old the data of loaded bands is, and which class wrote it. Only placement and policies use this, so it may be
rough."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

_KNOWN: Final = 1
_CLASS_SHIFT, _CLASS_BITS = 1, 3
_OPENED_SHIFT, _DATA_SHIFT = 4, 18
_EXPONENT_BITS, _DIGIT_BITS = 6, 8
_AGE_MASK: Final = (1 << _EXPONENT_BITS + _DIGIT_BITS) - 1


@dataclass(frozen=True)
class History:
    """Of each band, as FtlCore.load_history() takes it."""

    classes: NDArray[np.uint8]
    opened_seqs: NDArray[np.uint64]
    data_seqs: NDArray[np.uint64]

    def longer(self, count: int, next_seq: int) -> History:
        """With bands that are added: they were never written."""
        more = count - len(self.classes)
        never = np.full(more, next_seq, np.uint64)
        return History(
            np.concatenate([self.classes, np.zeros(more, np.uint8)]),
            np.concatenate([self.opened_seqs, never]),
            np.concatenate([self.data_seqs, never]),
        )


def packed(account: NDArray[Any], next_seq: int) -> NDArray[np.uint32]:
    """Rows of bands -> 32 bits for each, for the checkpoint: ages to 1 part in 128."""
    word = np.full(len(account), _KNOWN, np.uint64)
    word |= account["stream"].astype(np.uint64) << np.uint64(_CLASS_SHIFT)
    for name, shift in (("opened_seq", _OPENED_SHIFT), ("data_seq", _DATA_SHIFT)):
        age = np.maximum(0, next_seq - account[name].astype(np.int64))
        exponent = np.maximum(0, np.frexp(age.astype(np.float64))[1] - _DIGIT_BITS)
        short = (age >> exponent) | exponent << _DIGIT_BITS
        word |= (short.astype(np.uint64) & np.uint64(_AGE_MASK)) << np.uint64(shift)
    return word.astype(np.uint32)


def unpacked(words: NDArray[np.uint32], next_seq: int) -> History | None:
    """None: an older release wrote the checkpoint, which does not say it."""
    if not (words & np.uint32(_KNOWN)).all():
        return None
    seqs = []
    for shift in (_OPENED_SHIFT, _DATA_SHIFT):
        short = (words.astype(np.int64) >> shift) & _AGE_MASK
        # An age beyond 2^53 can't be one.
        age = (short & ((1 << _DIGIT_BITS) - 1)) << np.minimum(short >> _DIGIT_BITS, 45)
        seqs.append(np.maximum(1, next_seq - age).astype(np.uint64))
    classes = ((words >> np.uint32(_CLASS_SHIFT)) & np.uint32((1 << _CLASS_BITS) - 1)).astype(np.uint8)
    return History(classes, seqs[0], seqs[1])


def estimated(band_seqs: NDArray[np.uint64], next_seq: int, next_band_seq: int) -> History:
    """For a checkpoint of an older release, which knows only in which order bands were opened: as if hosts had written
    as much into the time of each band. Nothing says who wrote a band. They count as class 1, so that no policy takes
    copies that it has not placed for short-lived writes of hosts."""
    each = next_seq / max(1, next_band_seq)
    opened = band_seqs.astype(np.float64) * each
    opened_seqs, data_seqs = (np.clip(seqs, 1, next_seq).astype(np.uint64) for seqs in (opened, opened + each / 2))
    return History(np.ones(len(band_seqs), np.uint8), opened_seqs, data_seqs)


def guessed(
    band_seqs: NDArray[np.int64], sums: NDArray[np.float64], counts: NDArray[np.int64], highest: NDArray[np.uint64]
) -> History:
    """From what the blocks of each band record: the sum of their seqs, their number, and the greatest seq. A band was
    opened when everything in bands that were opened before it had been written, or somewhat earlier. If its data is
    older than that on average, relocation wrote it. Wrong for a band that was queued long before it was opened."""
    order = np.argsort(band_seqs, kind="stable")
    opened = np.ones(len(band_seqs), np.uint64)
    opened[order[1:]] = np.maximum.accumulate(highest[order])[:-1] + np.uint64(1)
    written = counts > 0
    data = opened.copy()
    data[written] = (sums[written] / counts[written]).astype(np.uint64)
    classes = (written & (data < opened)).astype(np.uint8)
    return History(classes, opened, data)
