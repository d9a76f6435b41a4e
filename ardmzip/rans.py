"""constriction's rANS coder, fed with integer intervals (docs/FORMAT.md, "Streams").

Every symbol is a nibble with an interval [start, start + width) of 2**24. The coder is a stack: the encoder collects
the intervals of a segment and pushes them in reverse order at its end. Keeping an interval instead of a whole table
bounds the memory; a row of three classes (below, symbol, above) with exactly that interval gives the same bits.
"""

from __future__ import annotations

from collections.abc import Sequence

import constriction
import numpy as np

from ardmzip import kernels, streams
from ardmzip.errors import FormatError
from ardmzip.mixture import TOTAL

#: Rows are built for so many symbols at a time when a segment is pushed.
_PUSH = 1 << 18
#: perfect=False quantises by the integers we hand over; bare Categorical() is 400 times slower and no different.
_FAMILY = constriction.stream.model.Categorical(perfect=False)
#: constriction adds one unit to each class of a row.
FLAT_ROW = np.full(16, TOTAL / 16 - 1, np.float32)


class Encoder:
    """Collects intervals in the order of decoding and turns each segment into rANS words."""

    def __init__(self) -> None:
        self._start: list[np.ndarray] = []
        self._width: list[np.ndarray] = []
        self._count = 0
        self._segments: list[np.ndarray] = []

    def push(self, start: np.ndarray, width: np.ndarray) -> None:
        """One batch of intervals, uint32 [n] each."""
        self._start.append(start)
        self._width.append(width)
        self._count += len(start)
        if self._count >= streams.SYMBOLS:
            self._end_segment()

    def cut(self) -> None:
        """End the segment here, unless it would be empty."""
        if self._count:
            self._end_segment()

    def _end_segment(self) -> None:
        coder = constriction.stream.stack.AnsCoder()
        if self._start:
            start, width = np.concatenate(self._start), np.concatenate(self._width)
            for end in range(len(start), 0, -_PUSH):
                part = slice(max(0, end - _PUSH), end)
                symbols, rows = np.empty(end - part.start, np.int32), np.empty((end - part.start, 3), np.float32)
                kernels.interval_rows(start[part], width[part], symbols, rows)
                coder.encode_reverse(symbols, _FAMILY, rows)
        self._segments.append(coder.get_compressed())
        self._start, self._width, self._count = [], [], 0

    def finish(self) -> tuple[np.ndarray, ...]:
        """The segments, uint32 words; at least one."""
        if self._count or not self._segments:
            self._end_segment()
        return tuple(self._segments)


def _coder(words: np.ndarray) -> constriction.stream.stack.AnsCoder:
    try:
        # words of a file that was read lazily are not aligned
        return constriction.stream.stack.AnsCoder(np.require(words, np.uint32, ["C", "A"]))
    except ValueError as error:  # the last word is 0
        raise FormatError(f"damaged: {error}") from error


class Decoder:
    """Pops symbols from segments, in step with the encoder's rule for their ends."""

    def __init__(self, segments: tuple[np.ndarray, ...]) -> None:
        self._segments = list(segments)
        self._coder: constriction.stream.stack.AnsCoder | None = _coder(self._segments.pop(0))
        self._count = 0

    def pop(self, rows: np.ndarray) -> np.ndarray:
        """Symbols int32 [n] under float32 [n, 16] rows of frequencies less one."""
        if len(rows) == 0:
            return np.empty(0, np.int32)
        if self._coder is None:
            if not self._segments:
                raise FormatError("damaged: a stream is missing")
            self._coder = _coder(self._segments.pop(0))
        return self._coder.decode(_FAMILY, rows)

    def end_batch(self, symbols: int) -> None:
        """Tell that a batch of so many symbols is complete: the place where a segment may end."""
        self._count += symbols
        if self._count >= streams.SYMBOLS:
            self.cut()

    def cut(self) -> None:
        """The segment ends here, unless it would be empty; raises FormatError if it holds more."""
        if self._count:
            self._check_empty()
            self._count = 0
            self._coder = None  # the next segment, if another symbol is to come

    def _check_empty(self) -> None:
        if self._coder is not None and not self._coder.is_empty():
            raise FormatError("damaged: the coded data does not end where the image does")

    def finish(self) -> None:
        """Raise FormatError unless everything has been used up."""
        self._check_empty()
        if self._segments:
            raise FormatError("damaged: the file has more coded data than the image needs")


def stacked_words(start: np.ndarray, width: np.ndarray) -> list[np.ndarray]:
    """The words of several images' symbols: intervals uint32 [images, symbols] -> one segment for each image."""
    symbols, rows = np.empty(start.shape, np.int32), np.empty((*start.shape, 3), np.float32)
    kernels.interval_rows(start.ravel(), width.ravel(), symbols.ravel(), rows.reshape(-1, 3))
    words = []
    for own_symbols, own_rows in zip(symbols, rows, strict=True):
        coder = constriction.stream.stack.AnsCoder()
        coder.encode_reverse(own_symbols, _FAMILY, own_rows)
        words.append(coder.get_compressed())
    return words


class StackedDecoder:
    """Pops symbols of several images in step, each from a segment of its own."""

    def __init__(self, segments: Sequence[np.ndarray]) -> None:
        self._coders = [_coder(words) for words in segments]
        self.images = len(segments)

    def pop(self, rows: np.ndarray) -> np.ndarray:
        """Symbols int32 [images * n] under float32 [images * n, 16] rows of frequencies less one, image by image."""
        symbols = np.empty(len(rows), np.int32)
        n = len(rows) // self.images
        for i, coder in enumerate(self._coders):
            part = slice(i * n, (i + 1) * n)
            symbols[part] = coder.decode(_FAMILY, rows[part])
        return symbols

    def ends(self) -> list[bool]:
        """Of each segment, whether it is used up."""
        return [coder.is_empty() for coder in self._coders]
