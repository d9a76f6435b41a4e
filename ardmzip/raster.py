"""The samples of a file: coded in one piece or in tiles, decoded as a whole, a region or a level; always checked."""

from __future__ import annotations

import threading
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, CancelledError, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from ardmzip import stored, tiling
from ardmzip.body import Decoder, Encoder, Progress, high_bits, subsampled
from ardmzip.container import NO_MODEL, Container
from ardmzip.errors import FormatError
from ardmzip.pixelformat import PixelFormat
from ardmzip.tiling import Rectangle

if TYPE_CHECKING:
    from ardmzip.model import Model
    from ardmzip.network import Backend

#: What gives the model and the back end of a file, if they are needed.
Loader = Callable[[], tuple["Model", "Backend"]]

#: Most tiles to work on at a time, as each takes its memory: more threads share the work within them.
MAX_AT_ONCE = 8


def checksum(samples: np.ndarray) -> int:
    """CRC-32 of samples uint8 or uint16 [height, width, channels] as in a file: those of 16 bits lower byte first."""
    raster = np.ascontiguousarray(samples, "<u2" if samples.dtype == np.uint16 else np.uint8)
    return zlib.crc32(raster.data)


def encode(
    samples: np.ndarray, described: PixelFormat, encoder: Encoder, tile: tuple[int, int] | None,
    progress: Progress | None = None, forced: bool = False, phase: tuple[int, int] | None = None,
) -> Container:  # fmt: skip
    """Code samples uint8 or uint16 [height, width, channels] in one piece, or in tiles of the given height and width.

    forced: as for body.Encoder. phase: of the lattice; None: the one that suits the samples. The container lacks format
    and metadata.
    """
    height, width = samples.shape[:2]
    if tile is None or (tile[0] >= height and tile[1] >= width):
        encoder.phase = _phase(samples, described) if phase is None else phase
        coded = with_checksums(encoder.encode(samples, described.depth, progress, forced), samples)
    else:
        coded = _encode_tiles(samples, described, encoder, tile, progress, forced, phase)
    return replace(coded, model_id=encoder.loaded()[0].id if coded.uses_model else NO_MODEL)


def _encode_tiles(
    samples: np.ndarray, described: PixelFormat, encoder: Encoder, tile: tuple[int, int], progress: Progress | None,
    forced: bool, phase: tuple[int, int] | None,
) -> Container:  # fmt: skip
    height, width = samples.shape[:2]
    rectangles = tiling.grid(height, width, tile)
    # a phase and a model for all tiles, by the one in the middle
    middle = samples[rectangles[len(rectangles) // 2].slices]
    if phase is not None:
        encoder.phase = phase
    elif min(rectangles[-1].height, rectangles[-1].width) > 1:
        encoder.phase = _phase(middle, described)
    if described.depth >= 8:
        encoder.network(colour_planes(middle, described))
    with _threads(described.depth >= 8, len(rectangles)) as (at_once, threads):
        encoders = [encoder.fork(threads) for _ in rectangles]

        def work(index: int, report: Progress) -> Container:
            part = np.ascontiguousarray(samples[rectangles[index].slices])
            return with_checksums(encoders[index].encode(part, described.depth, report, forced), part)

        tiles = _each(work, [place.height * place.width for place in rectangles], at_once, progress)
    if encoder.gains is not None:
        encoder.gains.extend(gain for forked in encoders for gain in forked.gains or [])
    return Container(
        width, height, described.colours, encoder.phase, NO_MODEL, b"", None, (), checksum(samples), tile=tile,
        tiles=tuple(tiles),
    )  # fmt: skip


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
    level = min(level, c.order.levels)
    load = changed(c, load)
    if c.tile is None:
        samples = _checked(c, cache(load), None, c.pixel_format, level, progress)
        samples = samples if region is None else samples[region.slices].copy()
    else:
        common = min(level, tiling.LEVELS)  # tiles fit together up to this level
        wanted = region or Rectangle(0, 0, c.height, c.width)
        shape = c.order.level_shape(common) if common else (wanted.height, wanted.width)
        dtype = np.uint16 if c.pixel_format.depth == 16 else np.uint8
        samples = np.empty((*shape, c.pixel_format.channels), dtype)

        def place(tile: Rectangle, found: np.ndarray) -> None:
            if common:
                top, left, (height, width) = tile.top >> common, tile.left >> common, found.shape[:2]
                samples[top : top + height, left : left + width] = found
            elif overlap := tile.overlap(wanted):
                samples[overlap.within(wanted).slices] = found[overlap.within(tile).slices]

        _decode_tiles(c, load, wanted, common, place, progress)
        if not common and region is None:
            _check_agrees(c.agrees(checksum(samples)))
        samples = subsampled(samples, (0, 0), level - common)
    if progress:
        progress(1.0)
    return samples


def holds(c: Container, load: Loader, samples: np.ndarray, progress: Progress | None = None) -> bool:
    """Whether a container decodes to these samples. Takes no memory for another image, if it has tiles."""

    def equal(tile: Rectangle, found: np.ndarray) -> bool:
        return np.array_equal(found, samples[tile.slices])

    try:
        if c.tile is None:
            return np.array_equal(decode(c, load, progress), samples)
        whole, load = Rectangle(0, 0, c.height, c.width), changed(c, load)
        return all(_decode_tiles(c, load, whole, 0, equal, progress)) and c.agrees(checksum(samples))
    except FormatError:
        return False


def _decode_tiles(
    c: Container, load: Loader, wanted: Rectangle, level: int, use: Callable[[Rectangle, np.ndarray], Any],
    progress: Progress | None,
) -> list[Any]:  # fmt: skip
    """``use(tile, samples)`` for the samples of a level of each tile that is not outside of ``wanted``."""
    tiles = [(place, tile) for place, tile in zip(c.places, c.tiles, strict=True) if place.overlap(wanted)]
    network = any(tile.uses_model for _, tile in tiles)
    load = cache(load)
    if network:
        load()  # before the threads begin
    with _threads(network, len(tiles)) as (at_once, threads):

        def work(index: int, report: Progress) -> Any:
            place, tile = tiles[index]
            return use(place, _checked(tile, load, threads, c.pixel_format, level, report))

        return _each(work, [place.height * place.width for place, _ in tiles], at_once, progress)


def _checked(
    c: Container, load: Loader, threads: int | None, described: PixelFormat, level: int, progress: Progress | None
) -> np.ndarray:
    """The samples of a level of a file of one body, or of a tile, compared with its checksums."""
    level = min(level, c.order.levels)
    checked = c.order.checked_level(level) if c.level_crcs else 0
    samples = Decoder(load, checked, threads).decode(c, described.extra, described.depth, progress)
    if checked == 0:
        _check_agrees(c.agrees(checksum(samples)))
        return subsampled(samples, c.phase, level)
    _check_agrees(checksum(samples) == c.level_crcs[c.order.cuts.index(checked - 1)])
    return subsampled(samples, (0, 0), level - checked)


def _check_agrees(right: bool) -> None:
    if not right:
        raise FormatError("the decoded pixels do not match the file's checksum")


def with_checksums(c: Container, samples: np.ndarray) -> Container:
    """With the checksum of its samples, and those of levels if coarse ones can be decoded alone."""
    lattice = c.uses_model and all(part.random is None for part in c.parts)
    cuts = c.order.cuts if lattice else ()
    crcs = tuple(checksum(subsampled(samples, c.phase, level + 1)) for level in cuts)
    return replace(c, pixel_crc=checksum(samples), level_crcs=crcs)


def colour_planes(samples: np.ndarray, described: PixelFormat) -> np.ndarray:
    """The planes of the colours that a model codes; of 16-bit samples those of their high bits."""
    from ardmzip.image import to_planes

    colours = samples[:, :, : described.colours]
    return to_planes(high_bits(colours) if described.depth == 16 else colours)


def _phase(samples: np.ndarray, described: PixelFormat) -> tuple[int, int]:
    """The lattice phase that suits samples: only colours tell."""
    if described.colours == 1:
        return 0, 0
    from ardmzip import codec

    return codec.lattice_phase(colour_planes(samples, described))


def changed(c: Container, load: Loader) -> Loader:
    """What gives the model as the file changes it."""
    if c.changes is None:
        return load
    payload = c.changes

    def load_changed() -> tuple[Model, Backend]:
        from ardmzip import changes

        model, backend = load()
        return changes.apply(changes.unpack(payload, model), model), backend

    return load_changed


@contextmanager
def _threads(network: bool, tiles: int) -> Iterator[tuple[int, int]]:
    """Tiles to work on at a time, and threads for each of them; one if there is no need of a network."""
    if not network:
        yield 1, 1
        return
    from ardmzip.network import exact_arithmetic

    # The process keeps these settings from the first tile to the last. If each tile set and restored them, the threads
    # would take each other's for the caller's.
    with exact_arithmetic("cpu") as threads:
        at_once = min(threads, tiles, MAX_AT_ONCE)
        yield at_once, -(-threads // at_once)


def _each(
    work: Callable[[int, Progress], Any], sizes: Sequence[int], at_once: int, progress: Progress | None
) -> list[Any]:
    """``work(index, report)`` for tiles of so many pixels, some at a time; results in order.

    After an error, or an interrupt, those under way end when they next report.
    """
    lock, stopped = threading.Lock(), threading.Event()
    done, total = [0] * len(sizes), 0

    def report(index: int, share: float) -> None:
        nonlocal total
        if stopped.is_set():
            raise CancelledError
        with lock:
            total -= done[index]
            done[index] = int(share * sizes[index])
            total += done[index]
            if progress:
                progress(total / sum(sizes))

    def run(index: int) -> Any:
        found = work(index, lambda share: report(index, share))
        report(index, 1.0)
        return found

    with ThreadPoolExecutor(at_once, "ardmzip-tile") as pool:
        futures = [pool.submit(run, index) for index in range(len(sizes))]
        try:
            for future in wait(futures, return_when=FIRST_EXCEPTION).done:
                future.result()
        except BaseException:
            stopped.set()
            pool.shutdown(cancel_futures=True)
            raise
    return [future.result() for future in futures]
