"""The samples of a file: coded in one piece or in tiles, decoded as a whole, a region or a level; always checked."""

from __future__ import annotations

import threading
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from ardmzip import stored, tiling
from ardmzip.body import Decoder, Encoder, Progress, subsampled
from ardmzip.container import NO_MODEL, Container
from ardmzip.errors import FormatError
from ardmzip.order import LatticeOrder
from ardmzip.pixelformat import PixelFormat
from ardmzip.tiling import Rectangle

if TYPE_CHECKING:
    from ardmzip.model import Model
    from ardmzip.network import Backend

#: What a level or a part of a picture is decoded with.
Loader = Callable[[], tuple["Model", "Backend"]]


def checksum(samples: np.ndarray) -> int:
    """CRC-32 of samples uint8 or uint16 [height, width, channels] as in a file: those of 16 bits lower byte first."""
    raster = np.ascontiguousarray(samples, "<u2" if samples.dtype == np.uint16 else np.uint8)
    return zlib.crc32(raster.data)


def encode(
    samples: np.ndarray, described: PixelFormat, encoder: Encoder, tile: tuple[int, int] | None,
    progress: Progress | None = None, forced: bool = False,
) -> Container:  # fmt: skip
    """Code samples uint8 or uint16 [height, width, channels] in one piece, or in tiles of the given height and width.

    forced: as for body.Encoder. The container lacks format and metadata.
    """
    height, width = samples.shape[:2]
    if tile is None or (tile[0] >= height and tile[1] >= width):
        encoder.phase = _phase(samples, described)
        coded = _with_checksums(encoder.encode(samples, described.depth, progress, forced), samples)
        return replace(coded, model_id=encoder.loaded()[0].id if coded.uses_model else NO_MODEL)
    rectangles = tiling.grid(height, width, tile)
    # a model and a phase for all tiles, by the one in the middle
    middle = samples[rectangles[len(rectangles) // 2].slices]
    if min(rectangles[-1].height, rectangles[-1].width) > 1:
        encoder.phase = _phase(middle, described)
    if described.depth >= 8:
        encoder.network(_colour_planes(middle, described))
    threads = _threads(described.depth >= 8)
    encoders = [encoder.fork(threads) for _ in rectangles]

    def work(index: int, report: Progress) -> Container:
        part = np.ascontiguousarray(samples[rectangles[index].slices])
        return _with_checksums(encoders[index].encode(part, described.depth, report, forced), part)

    tiles = _each(work, [r.height * r.width for r in rectangles], threads, progress)
    if encoder.gains is not None:
        encoder.gains.extend(gain for forked in encoders for gain in forked.gains or [])
    coded = Container(
        width, height, described.colours, encoder.phase, NO_MODEL, b"", None, (), checksum(samples), tile=tile,
        tiles=tuple(tiles),
    )  # fmt: skip
    return replace(coded, model_id=encoder.loaded()[0].id if coded.uses_model else NO_MODEL)


def raw(samples: np.ndarray, described: PixelFormat) -> Container:
    """The samples as they are, in one piece: the last resort."""
    height, width = samples.shape[:2]
    return Container(
        width, height, described.colours, (0, 0), NO_MODEL, b"", None, (), checksum(samples),
        stored=stored.raw(samples, described.depth),
    )  # fmt: skip


def decode(
    c: Container, load: Loader, progress: Progress | None = None, level: int = 0, region: Rectangle | None = None
) -> np.ndarray:
    """The samples of a container, uint8 or uint16 [height, width, channels]; raises FormatError for damage.

    level: only every 2**level-th row and column, from the lattice phase on. region: only these pixels, which must lie
    within the image; not together with a level. Streams and tiles that are not needed are not looked at.
    """
    described = c.pixel_format
    if c.tile is None:
        samples = _checked(c, described, Decoder(load), level, progress)
        return samples if region is None else samples[region.slices]
    # tiles fit together up to this level
    common = min(level, tiling.UNIT.bit_length() - 1)
    wanted = region or Rectangle(0, 0, c.height, c.width)
    places = [
        (tile, rectangle, overlap)
        for tile, rectangle in zip(c.tiles, tiling.grid(c.height, c.width, c.tile), strict=True)
        if (overlap := rectangle.overlap(wanted))
    ]
    height, width = wanted.height, wanted.width
    if common:
        height, width = LatticeOrder(c.height, c.width, 1, c.phase).level_shape(common)
    out = np.empty((height, width, described.channels), np.uint16 if described.depth == 16 else np.uint8)
    threads = _threads(c.uses_model)
    decoder = Decoder(load, threads=1 if threads > 1 and len(places) > 1 else None)
    if c.uses_model:
        decoder.network()

    def work(index: int, report: Progress) -> None:
        tile, rectangle, overlap = places[index]
        samples = _checked(tile, described, decoder, common, report)
        if common:
            top, left = rectangle.top >> common, rectangle.left >> common
            out[top : top + samples.shape[0], left : left + samples.shape[1]] = samples
        else:
            out[overlap.within(wanted).slices] = samples[overlap.within(rectangle).slices]

    _each(work, [overlap.height * overlap.width for _, _, overlap in places], threads, progress)
    if level == 0 and region is None and checksum(out) != c.pixel_crc:
        raise FormatError("the decoded pixels do not match the file's checksum")
    return out if level == common else subsampled(out, (0, 0), level - common)


def _checked(
    c: Container, described: PixelFormat, decoder: Decoder, level: int, progress: Progress | None
) -> np.ndarray:
    """The samples of a level of a body that has checksums, compared with them."""
    order = LatticeOrder(c.height, c.width, 1, c.phase)
    level = min(level, order.levels)
    checked = order.checked_level(level) if c.level_crcs else 0
    samples = decoder.at(checked).decode(c, described.extra, described.depth, progress)
    expected = c.pixel_crc if checked == 0 else c.level_crcs[order.cuts.index(checked - 1)]
    if checksum(samples) != expected:
        raise FormatError("the decoded pixels do not match the file's checksum")
    if level == checked:
        return samples
    return subsampled(samples, c.phase if checked == 0 else (0, 0), level - checked)


def _with_checksums(c: Container, samples: np.ndarray) -> Container:
    crcs = tuple(checksum(subsampled(samples, c.phase, level + 1)) for level in c.order.cuts)
    return replace(c, pixel_crc=checksum(samples), level_crcs=crcs)


def _colour_planes(samples: np.ndarray, described: PixelFormat) -> np.ndarray:
    from ardmzip.image import to_planes

    colours = samples[:, :, : described.colours]
    return to_planes((colours >> np.uint16(8)).astype(np.uint8) if described.depth == 16 else colours)


def _phase(samples: np.ndarray, described: PixelFormat) -> tuple[int, int]:
    """The lattice phase that suits samples: only colours tell."""
    if described.colours == 1:
        return 0, 0
    from ardmzip import codec

    return codec.lattice_phase(_colour_planes(samples, described))


def _threads(network: bool) -> int:
    """Tiles to work on at a time."""
    if not network:
        return 1
    import torch

    return torch.get_num_threads()


def _each(work: Callable, sizes: Sequence[int], threads: int, progress: Progress | None) -> list:
    """``work(index, progress)`` for each part of so many pixels, on so many threads; results in order.

    After an error or an interruption those that have begun end at their next progress.
    """
    done, lock, ending = [0.0] * len(sizes), threading.Lock(), threading.Event()

    def report(index: int) -> Progress:
        def tell(share: float) -> None:
            if ending.is_set():
                raise CancelledError
            if progress is not None:
                with lock:
                    done[index] = share * sizes[index]
                    progress(sum(done) / sum(sizes))

        return tell

    with ThreadPoolExecutor(threads, "ardmzip-tile") as pool:
        futures = [pool.submit(work, index, report(index)) for index in range(len(sizes))]
        try:
            return [future.result() for future in futures]
        except BaseException:
            ending.set()
            pool.shutdown(cancel_futures=True)
            raise
