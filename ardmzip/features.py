"""Network inputs: what is known around a pixel, as int8 numbers (docs/FORMAT.md, "Features").

A *level array* holds one level of the lattice pyramid, interleaved: int16 [rows + 6, columns + 6, 3] with the channels
in coding order (G, R, B), a border of 3 and -1 wherever a sub-pixel is not known (outside the image, not yet coded, or
R and B of a gray image). A pixel to be coded is named by the offset of its G in the flattened array.

The planes that features look at are G, R-G and B-G. For each plane the neighbours on the lattices that can be known are
compared with a reference (their weighted mean, or the true value where the plane is known at the pixel itself) and the
differences are divided by the plane's activity: scale-normalised, companded inputs.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from ardmzip import tables

if TYPE_CHECKING:
    import torch

RADIUS = 3
CHANNELS = 3
UNKNOWN = -1
#: Level thermometer length: levels from this one on look alike.
LEVELS = 6
#: Levels 0 | >= 1 have separate experts.
GROUPS = 2
KINDS = 3
#: First row and column of each kind of lattice.
KIND_OFFSETS = ((1, 1), (0, 1), (1, 0))
EXPERTS = GROUPS * KINDS * CHANNELS
#: Numbers of the global side information (sideinfo.py); one more input says whether it was sent.
SIDE = 22
#: activity (3), reference (3), known fraction (3), earlier channels known at the pixel (2), level, side information
SCALARS = 3 + 3 + 3 + 2 + LEVELS + 1 + SIDE
#: Inputs are padded with zeros to a multiple of this (int8 matrix products on CUDA want multiples of 8).
ALIGN = 16


def unknown_array(rows: int, columns: int, images: tuple[int, ...] = ()) -> np.ndarray:
    """A level array of which nothing is known yet: int16 [rows + 6, columns + 6, 3]; or a stack of them for several
    images, with one more dimension."""
    return np.full((*images, rows + 2 * RADIUS, columns + 2 * RADIUS, CHANNELS), UNKNOWN, np.int16)


def without_border(array: np.ndarray) -> np.ndarray:
    """The pixels of a level array, as a view [rows, columns, 3]; or of a stack of them."""
    return array[..., RADIUS:-RADIUS, RADIUS:-RADIUS, :]


@dataclass(frozen=True)
class Layout:
    """Input layout of one (kind, channel): which taps are read.

    offsets: int64 [n, 2] (dy, dx); weights: int64 [n], powers of two by distance. The first ``known`` taps lie on
    lattices coded before this one; the other eight on the lattice itself, where only earlier channels are known.
    """

    kind: int
    channel: int
    offsets: np.ndarray
    weights: np.ndarray
    known: int

    def taps(self, plane: int) -> int:
        """Number of taps read in ``plane`` (0: G, 1: R-G, 2: B-G)."""
        return len(self.offsets) if plane < self.channel else self.known

    @property
    def side(self) -> slice:
        """Which inputs are the side information, if there is any."""
        end = sum(self.taps(plane) for plane in range(CHANNELS)) + SCALARS
        return slice(end - SIDE, end)

    @property
    def inputs(self) -> int:
        """Number of inputs, padding included."""
        n = sum(self.taps(plane) for plane in range(CHANNELS)) + SCALARS
        return -(-n // ALIGN) * ALIGN


@cache
def layout(kind: int, channel: int) -> Layout:
    """The layout of expert inputs for lattice ``kind`` (0: odd,odd; 1: even,odd; 2: odd,even) and ``channel``."""
    # A tap at (dy, dx) from a pixel of this kind lies on the lattice given by the parities of the sum.
    odd_y, odd_x = KIND_OFFSETS[kind]
    lattice_rank = {(0, 0): 0, (1, 1): 1, (0, 1): 2, (1, 0): 3}
    before, same = [], []
    for dy in range(-RADIUS, RADIUS + 1):
        for dx in range(-RADIUS, RADIUS + 1):
            rank = lattice_rank[(odd_y + dy) % 2, (odd_x + dx) % 2]
            if rank < kind + 1:
                before.append((dy, dx))
            elif rank == kind + 1 and (dy, dx) != (0, 0):
                same.append((dy, dx))
    offsets = np.array(before + same, np.int64)
    distance = np.sqrt((offsets**2).sum(1))
    weights = 2 ** np.maximum(8 - np.rint(2 * distance), 0).astype(np.int64)
    return Layout(kind, channel, offsets, weights, len(before))


def expert_layout(expert: int) -> Layout:
    """The input layout of an expert."""
    return layout(expert // CHANNELS % KINDS, expert % CHANNELS)


def window_features(
    q: torch.Tensor,
    at: torch.Tensor,
    stride: int,
    lay: Layout,
    level: int,
    side: torch.Tensor,
    tabs: dict[str, torch.Tensor],
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Inputs of pixels, in torch operations on any device; kernels.py has the same for the CPU.

    q: int16, a flattened level array; at: int64 [n], flat offsets of the pixels; stride: columns of the level array,
    border included; side: int8 [images, SIDE + 1], of each image whose level array q is made of, or one for all.

    Returns x int8 [n, inputs], the mixture centre int32 [n] in 1/64 grey level, and the activity class uint8 [n].
    """
    import torch  # not needed for the layouts alone

    n = len(at)
    device = q.device
    offsets = torch.from_numpy((lay.offsets[:, 0] * stride + lay.offsets[:, 1]) * CHANNELS).to(device)
    weights = torch.from_numpy(lay.weights).to(device)
    x = torch.zeros(n, lay.inputs, dtype=torch.int8, device=device)
    scalars = sum(lay.taps(plane) for plane in range(CHANNELS))
    window = [q[at[:, None] + offsets + plane].long() for plane in range(CHANNELS)]
    here = [q[at + plane].long() for plane in range(CHANNELS)]
    column = 0
    references = []
    for plane in range(CHANNELS):
        taps = lay.taps(plane)
        values = window[plane][:, :taps]
        known = values >= 0
        if plane > 0:
            values = values - window[0][:, :taps]
        w = torch.where(known, weights[:taps], 0)
        weight = w.sum(1)
        mean = torch.div(
            (w * values).sum(1) * tables.UNIT + (weight >> 1), weight.clamp(min=1), rounding_mode="floor"
        )  # fmt: skip
        reference = torch.where(weight > 0, mean, 128 * tables.UNIT if plane == 0 else 0)
        here_known = (here[plane] >= 0) if plane < lay.channel else torch.zeros(n, dtype=torch.bool, device=device)
        own = here[plane] if plane == 0 else here[plane] - here[0]
        reference = torch.where(here_known, own * tables.UNIT, reference)
        references.append(reference)

        d = torch.where(known, values * tables.UNIT - reference[:, None], 0)
        spread = torch.div((w * d.abs()).sum(1), weight.clamp(min=1), rounding_mode="floor")
        cls = tabs["class_of"].long()[(spread >> 2).clamp(max=len(tabs["class_of"]) - 1)]
        cls = torch.where(weight > 0, cls, tables.CLASS_UNKNOWN)
        entry = cls[:, None] * tables.DIFFERENCES + (d.abs() >> 4).clamp(max=tables.DIFFERENCES - 1)
        x[:, column : column + taps] = torch.where(known, d.sign() * tabs["compand"].long()[entry], 0).to(torch.int8)
        column += taps
        x[:, scalars + plane] = (4 * cls - 64).to(torch.int8)
        level_input = ((reference >> 6) - 128) >> 1 if plane == 0 else (reference >> 6) >> 2
        x[:, scalars + 3 + plane] = level_input.to(torch.int8)
        x[:, scalars + 6 + plane] = (weight * tables.INPUT_ONE // weights[:taps].sum()).to(torch.int8)
        if plane < 2:
            x[:, scalars + 9 + plane] = here_known.to(torch.int8) * tables.INPUT_ONE
        if plane == lay.channel:
            own_class = cls
            centre = reference if plane == 0 else reference + references[0]
    x[:, scalars + 11 : scalars + 11 + min(level, LEVELS)] = tables.INPUT_ONE
    x[:, scalars + 11 + LEVELS : scalars + SCALARS] = side[at // (len(q) // len(side))]
    return x, centre.clamp(0, 255 * tables.UNIT).int(), own_class.to(torch.uint8)
