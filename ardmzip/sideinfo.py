"""Global side information: 22 statistics of the whole image, one byte each, that tell the network what it looks at.

The encoder measures and quantises them, the file carries the bytes, and the network reads the bytes; so they may be
computed in floating point, in any way, without touching exactness.
"""

from __future__ import annotations

import numpy as np

from ardmzip.features import SIDE

#: Block side and the most blocks that are looked at: half a megapixel says enough about noise and processing.
BLOCK, MAX_BLOCKS = 64, 128
#: Indices of the chroma phase statistics, and the ratio (in octaves) from which the odd positions count as sites.
_PHASE_X, _PHASE_Y, PHASE_RATIO = 6, 7, 0.1
#: Quantisation: 1/32 of a training-set standard deviation, +-4 of them.
STEP = 32


def _blocks(planes: np.ndarray) -> np.ndarray:
    """Evenly spread blocks as float32 [channels, blocks, height, width], at even offsets so that phases survive."""
    _, h, w = planes.shape
    bh, bw = min(BLOCK, h), min(BLOCK, w)
    ys, xs = np.arange(0, h - bh + 1, bh), np.arange(0, w - bw + 1, bw)
    corners = [(y, x) for y in ys for x in xs]
    step = max(1, -(-len(corners) // MAX_BLOCKS))
    return np.stack([planes[:, y : y + bh, x : x + bw] for y, x in corners[::step]], 1).astype(np.float32)


def measure(planes: np.ndarray) -> np.ndarray:
    """The statistics of an image: float64 [22].

    ``planes``: uint8 [3, height, width] in coding order (G, R, B) or [1, height, width]; at least 8 x 8 pixels.
    """
    blocks = _blocks(planes)
    g = blocks[0]
    gray = len(blocks) == 1
    p = [g, np.zeros_like(g) if gray else blocks[1] - g, np.zeros_like(g) if gray else blocks[2] - g]
    # second differences along x and y: what linear interpolation from both sides would miss
    hx = [a[:, :, 1:-1] - 0.5 * (a[:, :, :-2] + a[:, :, 2:]) for a in p]
    hy = [a[:, 1:-1] - 0.5 * (a[:, :-2] + a[:, 2:]) for a in p]
    ax, ay = [np.abs(a) for a in hx], [np.abs(a) for a in hy]

    def ratio(a: float, b: float) -> float:
        return float(np.log2((a + 0.05) / (b + 0.05)))

    s: list[float] = []
    for x, y in zip(ax, ay, strict=True):  # 0-2 mean activity
        s.append(np.log2(0.5 * (x.mean() + y.mean()) + 0.1))
    for x in ax:  # 3-5 noise floor: a low quantile of the activity of 8-pixel runs
        w = x.shape[2] // 8 * 8
        runs = x[:, :, :w].reshape(x.shape[0], x.shape[1], -1, 8).mean(3) if w else x
        s.append(np.log2(np.quantile(runs, 0.15) + 0.05))
    # 6-9 interpolation phase: is every other column (row) smoother? first for chroma, then for luma
    cx, cy = ax[1] + ax[2], ay[1] + ay[2]
    s.append(ratio(cx[:, :, ::2].mean(), cx[:, :, 1::2].mean()))
    s.append(ratio(cy[:, ::2].mean(), cy[:, 1::2].mean()))
    s.append(ratio(ax[0][:, :, ::2].mean(), ax[0][:, :, 1::2].mean()))
    s.append(ratio(ay[0][:, ::2].mean(), ay[0][:, 1::2].mean()))
    # 10-14 cross-channel slopes and correlations of the fine detail
    gg, uu, vv = (float((a * a).mean()) for a in hx)
    gu, gv, uv = float((hx[0] * hx[1]).mean()), float((hx[0] * hx[2]).mean()), float((hx[1] * hx[2]).mean())
    s += [gu / (gg + 1), gv / (gg + 1)]
    s += [gu / np.sqrt(gg * uu + 1), gv / np.sqrt(gg * vv + 1), uv / np.sqrt(uu * vv + 1)]
    s.append(ratio(np.sqrt(gg), ax[0].mean()))  # 15 tail weight
    d1 = [np.abs(np.diff(a, axis=2)) for a in p]
    d2 = [np.abs(a[:, :, 2:] - a[:, :, :-2]) for a in p]
    s.append(ratio(d1[0].mean(), d2[0].mean()))  # 16, 17 sharpness, luma and chroma
    s.append(ratio(d1[1].mean() + d1[2].mean(), d2[1].mean() + d2[2].mean()))
    values = np.unique(planes[0][:: max(1, planes.shape[1] // 512)])
    s.append(len(values) / (float(values[-1]) - float(values[0]) + 1))  # 18 histogram gaps
    s.append(float((d1[0] == 0).mean()))  # 19, 20 flatness
    s.append(float((d1[1] == 0).mean()))
    s.append(np.log2(np.abs(p[1]).mean() + np.abs(p[2]).mean() + 1))  # 21 saturation
    assert len(s) == SIDE
    return np.asarray(s, np.float64)


def lattice_phase(stats: np.ndarray) -> tuple[int, int]:
    """The phase (y, x) in which interpolated rows and columns are coded after those they were interpolated from.

    Images whose chroma was subsampled by two and interpolated (Photo CD, video) are much smoother at every other row or
    column; coding these last saves several per cent. ``stats``: from ``measure``.
    """
    across, down = stats[_PHASE_X], stats[_PHASE_Y]
    return int(down > PHASE_RATIO), int(across > PHASE_RATIO)


def quantise(stats: np.ndarray, mean: np.ndarray, std: np.ndarray) -> np.ndarray:
    """Bytes for the header: int8 [22] in 1/32 standard deviation of the training set."""
    return np.clip(np.rint((stats - mean) / std * STEP), -127, 127).astype(np.int8)


def inputs(side: np.ndarray | None) -> np.ndarray:
    """Network inputs int8 [23]: a flag and the 22 numbers, all zero when the file carries none."""
    x = np.zeros(SIDE + 1, np.int8)
    if side is not None:
        x[0] = 32
        x[1:] = side
    return x
