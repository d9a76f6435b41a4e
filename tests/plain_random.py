"""A decoder of random orders written from docs/FORMAT.md, "Random order", with none of the codec's code."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import plain_decoder
from plain_decoder import Streams, clamp

_MASK = 2**64 - 1


def permutation(seed: int, stage: int, count: int) -> list[int]:
    keys = []
    for i in range(count):
        x = (256 * seed + stage + (i + 1) * 0x9E3779B97F4A7C15) & _MASK
        x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _MASK
        keys.append((x ^ (x >> 31), i))
    return [i for _, i in sorted(keys)]


def costs(losses: list[int], most: int) -> tuple[list[list[int | None]], list[list[int]]]:
    """A_n(u) and the t that gives it, for n = 0 to ``most``; None where there is none."""
    size = len(losses)
    a: list[list[int | None]] = [[0] + [None] * size]
    begins: list[list[int]] = [[0] * (size + 1)]
    for _ in range(most):
        best, from_t = [], []
        for u in range(size + 1):
            ways = [(a[-1][t] + (u - t) * losses[t], t) for t in range(u) if a[-1][t] is not None]
            cost, t = min(ways) if ways else (None, 0)
            best.append(cost)
            from_t.append(t)
        a.append(best)
        begins.append(from_t)
    return a, begins


def calls(loss: np.ndarray, size: int, count: int, kind: int) -> list[list[int]]:
    """Where the calls begin, by stage: "Calls"."""
    losses = [[int(row[t * 3072 // size]) for t in range(size)] for row in loss]
    stages = len(losses)
    shares = [(s + 1) * count // stages - s * count // stages for s in range(stages)]
    if kind == 2 and count != size * stages:
        each = [costs(row, min(size, count))[0] for row in losses]
        c = [{n: table[n][size] for n in range(1, len(table)) if table[n][size] is not None} for table in each]
        f = [c[0]]
        for own in c[1:]:
            sums: dict[int, int] = {}
            for m, before in f[-1].items():
                for n, cost in own.items():
                    sums[m + n] = min(sums.get(m + n, before + cost), before + cost)
            f.append(sums)
        left, shares = count, []
        for s in range(stages - 1, 0, -1):
            n = min(n for n, cost in c[s].items() if left - n in f[s - 1] and f[s - 1][left - n] + cost == f[s][left])
            shares.insert(0, n)
            left -= n
        shares.insert(0, left)
    found = []
    for row, n in zip(losses, shares, strict=True):
        if kind == 0 or n == size:
            found.append([i * size // n for i in range(n)])
            continue
        begins, starts, end = costs(row, n)[1], [], size
        for layer in range(n, 0, -1):
            end = begins[layer][end]
            starts.insert(0, end)
        found.append(starts)
    return found


def state(low: np.ndarray, mask: np.ndarray, span: int, finer: int, table: dict) -> tuple[np.ndarray, ...]:
    """Inputs [h, w, 24], centre [3, h, w] and class [h, w]: "State" and "Inputs". low, mask: int64 [3, h, w]."""
    _, h, w = low.shape
    possible = np.where(mask, finer, span)
    trust = mask if span == 256 else 1 + mask
    known = trust > 0
    value = 32 * (2 * low + possible - 1)
    y, x = np.mgrid[:h, :w].reshape(2, -1)
    entry = 32 * abs(y[:, None] - y) + abs(x[:, None] - x)

    def around(planes: np.ndarray, name: str) -> np.ndarray:
        return (np.array(table[name])[entry] @ planes.reshape(-1, h * w).T).T.reshape(planes.shape)

    def mean(name: str) -> tuple[np.ndarray, np.ndarray]:
        den = around(trust, name)
        return den, (32 * around(trust * (value // 32), name) + 8160) // (den + 1)

    _, near = mean("near")
    den_wide, wide = mean("wide")
    deviation = np.where(known, value - near, 0)
    first = np.empty_like(value)
    for c in range(3):
        a, b = (c + 1) % 3, (c + 2) % 3
        n = np.maximum(1, known[a].astype(int) + known[b])
        first[c] = near[c] + 7 * (deviation[a] + deviation[b]) // (8 * n)
    error = np.where(known, np.minimum(abs(value - first) >> 4, 1023), 0)
    total = den_wide.sum(0)
    activity = (4 * around((trust * error).sum(0), "wide") + 1024) // (total + 1)
    cls = np.array(table["class_of"])[np.minimum(activity, 8191)]

    least = 64 * low
    most = least + 64 * (possible - 1)
    x_ = np.clip(first, least, most)
    wanted = x_
    for _ in range(16):
        p = np.pad(x_, ((0, 0), (1, 1), (1, 1)), mode="edge")
        sides = p[:, :-2, 1:-1] + p[:, 2:, 1:-1] + p[:, 1:-1, :-2] + p[:, 1:-1, 2:]
        corners = p[:, :-2, :-2] + p[:, :-2, 2:] + p[:, 2:, :-2] + p[:, 2:, 2:]
        middle = (3 * sides - corners) >> 3
        rough = x_ - middle
        wanted = np.stack([middle[c] + ((15 * (rough[(c + 1) % 3] + rough[(c + 2) % 3])) >> 5) for c in range(3)])
        x_ = np.clip(x_ + ((7 * (wanted - x_)) >> 4), least, most)
    scale = np.array(table["class_scale"])[cls]
    compand = np.array(table["compand"])
    off = value - wanted
    entries = compand[1024 * cls + np.minimum(abs(off) >> 4, 1023)] * np.sign(off)

    def scaled(v: np.ndarray) -> np.ndarray:
        return np.clip(v // scale, -127, 127)

    def density(v: np.ndarray) -> np.ndarray:
        return np.array(table["density"])[np.minimum(v >> 7, 4095)]

    numbers = [
        *(64 * mask), *np.where(known, scaled(16 * (value - wide)), 0), *scaled(16 * (x_ - wide)),
        *scaled(32 * (near - x_)), *np.where(known, entries, 0), *density(den_wide), *(np.clip(x_ >> 7, 0, 127) - 64),
        3 * cls - 54, density(total >> 1), np.full((h, w), 64),
    ]  # fmt: skip
    return np.stack(numbers, 2), x_, cls


def layer(x: np.ndarray, i: int, row: int, tensors: dict, around: np.ndarray | None = None) -> np.ndarray:
    kernel, dilation = tensors["layers"][i].tolist()
    weight, bias, shift = (tensors[f"conv.{i}.{part}"].astype(int) for part in ("weight", "bias", "shift"))
    h, w, _ = x.shape
    reach = kernel // 2 * dilation
    p = np.pad(x, ((reach, reach), (reach, reach), (0, 0)))
    windows = [p[y * dilation :, z * dilation :][:h, :w] for y in range(kernel) for z in range(kernel)]
    total = np.concatenate(windows, 2) @ weight.T + bias[row if len(bias) > 1 else 0]
    if around is not None:
        total = total + (around << shift)
    return np.clip(total >> shift, 0, 127)


def outputs(x: np.ndarray, row: int, tensors: dict) -> np.ndarray:
    """[h, w, 3, outputs]: "Layers" and "Head"."""
    x = layer(x, 0, row, tensors)
    count = len(tensors["layers"])
    for i in range(1, count - 1, 2):
        x = layer(layer(x, i, row, tensors), i + 1, row, tensors, x)
    x = layer(x, count - 1, row, tensors)
    y = (x @ tensors["head.weight"].astype(int).T + tensors["head.bias"] + 64) >> 7
    return y.reshape(*x.shape[:2], 3, -1)


def bounds(y: list[int], centre: int, a: int, v: int, m: int, b: int, direct: bool, table: dict) -> list[int]:
    """g(0) to g(b): "Digits"."""
    if direct:
        e = [table["exp2"][min((max(y) - own) >> 2, 1023)] for own in y]
        f = [sum(e[:i]) for i in range(b + 1)]
    else:
        cdf = plain_decoder.cumulative(plain_decoder.mixture(y, centre, a, table), table)
        f = [cdf(v + i * m // b) - cdf(v) for i in range(b + 1)]
    return [own * (2**24 - 2 * b) // f[b] + 2 * i for i, own in enumerate(f)]


def cuts(length: int) -> list[tuple[int, int]]:
    n = -(-length // 32)
    return [(i * length // n, (i + 1) * length // n) for i in range(n)]


def decode(container, tensors: dict[str, np.ndarray]) -> np.ndarray:
    """The planes uint8 [3, height, width] of a body in a random order."""
    table = {name.split(".")[1]: array.tolist() for name, array in tensors.items() if name.startswith("table.")}
    branching, direct, times = tensors["form"].tolist()
    stages = 1 if branching == 256 else 8 // (branching.bit_length() - 1)
    bases = [16, 16] if branching == 256 else [branching]
    stream = Streams(container.segments)
    planes = np.zeros((3, container.height, container.width), int)
    groups: dict[tuple[int, int], list[np.ndarray]] = {}
    for top, bottom in cuts(container.height):
        for left, right in cuts(container.width):
            groups.setdefault((bottom - top, right - left), []).append(planes[:, top:bottom, left:right])
    order = container.random
    starts = {
        shape: calls(tensors["loss"], 3 * shape[0] * shape[1], order.calls, order.kind) for shape in groups
    }  # fmt: skip
    span = 256
    for stage in range(stages):
        finer = 1 if branching == 256 else span // branching
        shuffled = {(h, w): permutation(order.seed, stage, 3 * h * w) for h, w in groups}
        count = {len(own[stage]) for own in starts.values()}
        for call in range(max(count)):
            pending = []
            for (h, w), blocks in groups.items():
                size = 3 * h * w
                (start, end) = list(pairwise([*starts[h, w][stage], size]))[call]
                mask = np.zeros(size, int)
                mask[shuffled[h, w][:start]] = 1
                for block in blocks:
                    x, centre, cls = state(block, mask.reshape(3, h, w), span, finer, table)
                    y = outputs(x, times * stage + times * start // size, tensors)
                    for place in shuffled[h, w][start:end]:
                        c, row, column = place // (h * w), place // w % h, place % w
                        known = y[row, column, c].tolist(), int(centre[c, row, column]), int(cls[row, column])
                        pending.append((block, (c, row, column), known))
            possible = span
            for base in bases:
                for block, place, known in pending:
                    g = bounds(*known, int(block[place]), possible, base, bool(direct), table)
                    block[place] += stream.symbol(g) * (possible // base)
                possible //= base
            stream.end_batch()
        span = finer
    stream.end()
    assert not stream.left
    assert planes.max() == clamp(planes.max(), 0, 255)
    return planes.astype(np.uint8)
