"""Where the bits of a file went: a map of its code length, and an image of the map."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageOps

from ardmzip import codec, codes, raster, tiling
from ardmzip.body import Progress
from ardmzip.container import Container
from ardmzip.errors import OptionError
from ardmzip.image import to_planes, turned, turned_back
from ardmzip.order import Atom, LatticeOrder
from ardmzip.predictor import Distribution, LearnedDistribution, Predictor
from ardmzip.tiling import Rectangle

if TYPE_CHECKING:
    from ardmzip.model import Model
    from ardmzip.network import Backend


class MappingCoder(codec.EncodingCoder):
    """Codes nothing, but adds up the code lengths: float64 [height, width], ``bits``, and by level, ``level_bits``."""

    def __init__(self, planes: np.ndarray, order: LatticeOrder) -> None:
        super().__init__(planes, order)
        self.bits = np.zeros(planes.shape[1:])
        self.level_bits = np.zeros(order.levels + 1)
        self._lengths: dict[Atom, np.ndarray] = {}

    def base(self, channels: int) -> np.ndarray:
        values = super().base(channels)
        self.level_bits[-1] = 8 * channels
        self.bits += 8 * channels / self.bits.size
        return values

    def known(self, atom: Atom) -> np.ndarray:
        values = super().known(atom)
        self._lengths.setdefault(atom, np.zeros(len(values)))
        return values

    def batch(self, atom: Atom, pixels: np.ndarray, distribution: Distribution | LearnedDistribution) -> np.ndarray:
        values = self.known(atom)[pixels]
        _, width = distribution.intervals(values)
        self._lengths[atom][pixels] = 48.0 - np.log2(width).sum(0)
        return values

    def flush(self, atom: Atom, ended: bool) -> None:
        super().flush(atom, ended)
        if ended:
            lengths = self._lengths.pop(atom)
            self.level_bits[atom.level] += lengths.sum()
            self._spread(atom, lengths)

    def _spread(self, atom: Atom, lengths: np.ndarray) -> None:
        """A pixel's bits are drawn over the square that it has to itself when its lattice is coded, twice its level's
        distance wide: single pixels would be dots."""
        rows, columns = self.order.lattice_shape(atom.level, atom.kind)
        height, width = self.planes.shape[1:]
        cell = 2 << atom.level
        across = np.minimum(np.arange(width) // cell, columns - 1)
        down = np.minimum(np.arange(height) // cell, rows - 1)
        area = np.outer(np.bincount(down, minlength=rows), np.bincount(across, minlength=columns))
        self.bits += (lengths.reshape(rows, columns) / np.maximum(area, 1))[np.ix_(down, across)]


def bits(c: Container, load: raster.Loader, progress: Progress | None = None) -> np.ndarray:
    """Map of a file: its bits by pixel, float64 [height, width], of all parts together.

    The file is decoded first. ``load`` gives model and back end. What a general coder has stored counts evenly for the
    pixels of its body. Raises OptionError for a file without anything that a model of the lattice order has coded,
    FormatError for damage.
    """
    if not c.uses_model:
        raise OptionError("the file was stored by a general coder and has no map of its bits")
    if any(part.random is not None for part in c.parts):
        raise OptionError("the file is coded in a random order: there is no map of its bits")
    model, backend = raster.changed(c, load)()
    samples = raster.decode(c, load, None if progress is None else lambda done: progress(done / 2))
    found = np.zeros((c.height, c.width))
    places = [Rectangle(0, 0, c.height, c.width)] if c.tile is None else tiling.grid(c.height, c.width, c.tile)
    done, total = 0, sum(_weight(part) for part in c.parts)

    def report(share: float) -> None:
        if progress:
            progress(0.5 + 0.5 * (done + share * _weight(part)) / total)

    for place, tile in zip(places, c.tiles or (c,), strict=True):
        for part, own in _parts(tile, samples[place.slices]):
            if part.stored is not None:
                found[place.slices] += 8 * len(part.stored) / (part.height * part.width)
            else:
                found[place.slices] += code_lengths(part, to_planes(own), model, backend, report).bits
            done += _weight(part)
    return found


def _weight(part: Container) -> int:
    """Sub-pixels that the network has to look at."""
    return part.height * part.width * part.channels if part.stored is None else 0


def _parts(c: Container, samples: np.ndarray) -> Iterator[tuple[Container, np.ndarray]]:
    """A body and those within it, as Container.parts gives them in another order, with the samples that each codes.

    samples: uint8 or uint16 [height, width, channels].
    """
    if c.alpha is not None:
        yield from _parts(c.alpha, samples[:, :, -1:])
        samples = samples[:, :, :-1]
    if c.low is not None:  # the inverse of what LowBits says
        high = (samples >> np.uint16(c.low.count + c.low.shift)).astype(np.uint8)
        if c.low.body is not None:
            low = (samples >> np.uint16(c.low.shift) & np.uint16((1 << c.low.count) - 1)).astype(np.uint8)
            yield from _parts(c.low.body, low - high if c.low.relative else low)
        samples = high
    yield c, samples


def code_lengths(
    c: Container, planes: np.ndarray, model: Model, backend: Backend, progress: Progress | None = None
) -> MappingCoder:
    """Map of a model's picture: its container, its planes uint8 [channels, height, width], and what decodes it."""
    side = np.frombuffer(c.side_info, np.int8) if c.side_info else None
    turn = 0
    if c.code:
        code, turn = codec.DecodingCoder(c.segments, c.order).code(c.turned)
        side = codec.code_side(code, turn, c, model)
    coder = MappingCoder(turned(planes, turn), c.order)
    plan = codec.Plan(c.order, c.call_starts, c.learning, c.batch_ends)
    with Predictor(model, backend, side) as predictor:
        codec.walk(plan, predictor, coder, progress)
    coder.bits = turned_back(coder.bits, turn)
    if c.code:  # what the stream begins with
        coder.bits += (codes.BITS + 4 * c.turned) / coder.bits.size
    return coder


def draw(bits: np.ndarray) -> tuple[Image.Image, float]:
    """(image, bits a pixel that are white in it) of a map: black is nothing, over red and yellow to white.

    >>> image, most = draw(np.linspace(0, 10, 64).reshape(8, 8))
    >>> image.size, image.mode, round(most, 1), image.getpixel((0, 0)), image.getpixel((7, 7))
    ((8, 8), 'RGB', 9.9, (0, 0, 0), (255, 255, 255))
    """
    most = max(float(np.quantile(bits, 0.995)), 1e-9)  # a few pixels must not darken all others
    gray = Image.fromarray(np.clip(np.rint(bits / most * 255), 0, 255).astype(np.uint8))
    lower = ImageOps.colorize(gray, "black", "yellow", mid="red", midpoint=128, whitepoint=220)
    upper = ImageOps.colorize(gray, "yellow", "white", blackpoint=220)
    mask = gray.point(lambda value: 255 if value > 220 else 0)
    return Image.composite(upper, lower, mask), most
