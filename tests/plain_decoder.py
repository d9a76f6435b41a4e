"""A decoder written from docs/FORMAT.md, in plain Python and with none of the codec's code except for the container."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import pairwise

import numpy as np

Tables = dict[str, list[int]]


def clamp(a, low, high):
    return min(max(a, low), high)


class Stream:
    """A rANS stream: "Streams"."""

    def __init__(self, words: np.ndarray) -> None:
        self.words, self.state = [int(word) for word in words], 0
        while self.words and self.state < 2**32:
            self.state = self.state * 2**32 + self.words.pop()

    def symbol(self, bounds: list[int]) -> int:
        """One of the symbols whose intervals lie between successive bounds."""
        q = self.state % 2**24
        symbol = max(s for s in range(len(bounds) - 1) if bounds[s] <= q)
        self.state = self.state // 2**24 * (bounds[symbol + 1] - bounds[symbol]) + q - bounds[symbol]
        if self.state < 2**32 and self.words:
            self.state = self.state * 2**32 + self.words.pop()
        return symbol


class Streams:
    """The streams of a body, one after the other: "Segments"."""

    def __init__(self, segments: tuple[np.ndarray, ...]) -> None:
        self.left, self.stream, self.symbols = list(segments), Stream(np.zeros(0)), 0

    def symbol(self, bounds: list[int]) -> int:
        if self.symbols == 0:
            self.stream = Stream(self.left.pop(0))
        self.symbols += 1
        return self.stream.symbol(bounds)

    def end(self) -> None:
        """A stream ends here, if one has begun."""
        assert self.stream.state == 0
        assert not self.stream.words
        self.symbols = 0

    def end_batch(self) -> None:
        if self.symbols >= 2**22:
            self.end()


def parts(k: int) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """The two parts of the window of kind k: "Taps"."""
    places = [(dy, dx) for dy in range(-3, 4) for dx in range(-3, 4)]
    first = ({(1, 1)}, {(0, 1), (1, 0)}, {(1, 0), (0, 1), (1, 1)})[k]
    return (
        [p for p in places if (p[0] % 2, p[1] % 2) in first],
        [p for p in places if (p[0] % 2, p[1] % 2) == (0, 0) and p != (0, 0)],
    )


def taps(k: int, c: int) -> int:
    """Taps that the experts of kind k and channel c read in all planes."""
    first, second = map(len, parts(k))
    return 3 * first + c * second


FURTHER = {
    0: [(-3, -1), (-1, 3), (1, -3), (3, 1)],
    1: [(-2, -1), (-1, 2), (1, -2), (2, 1)],
    2: [(-1, -1), (-1, 1), (1, -1), (1, 1)],
}


def nearest(k: int) -> list[tuple[int, int]]:
    """The places of the four nearest taps: "Contexts"."""
    first, _ = parts(k)
    least = min(dy * dy + dx * dx for dy, dx in first)
    found = [(dy, dx) for dy, dx in first if dy * dy + dx * dx == least]
    assert len(found) == 4
    return found


def tap(k: int, c: int, plane: int, place: tuple[int, int]) -> int:
    """Which input of the experts of kind k and channel c is the tap of a plane at a place of the first part."""
    first, second = parts(k)
    return plane * len(first) + min(plane, c) * len(second) + first.index(place)


def bend(total: int, limits: tuple[int, ...]) -> int:
    exceeded = sum(limit < abs(total) for limit in limits)
    return exceeded if total > 0 else -exceeded


def inputs(q: dict, y: int, x: int, l: int, k: int, c: int, side: list, table: Tables) -> tuple[list[int], int, int]:  # noqa: E741
    """Inputs, centre and class of a sub-pixel: "Features". ``q``: {(y, x, channel): value} of the known sub-pixels."""
    first, second = parts(k)
    weight = {1: 64, 2: 32, 4: 16, 5: 16, 8: 4, 9: 4, 10: 4, 13: 2, 18: 1}

    def value(j, dy, dx):
        if (y + dy, x + dx, j) not in q:
            return None
        return q[y + dy, x + dx, j] - (q[y + dy, x + dx, 0] if j else 0)

    read_taps, refs, classes, fractions = [], [], [], []
    for j in range(3):
        read = first + (second if j < c else [])
        w = [weight[dy * dy + dx * dx] for dy, dx in read]
        p = [value(j, dy, dx) for dy, dx in read]
        known = [i for i in range(len(read)) if p[i] is not None]
        total = sum(w[i] for i in known)
        ref = (64 * sum(w[i] * p[i] for i in known) + (total >> 1)) // total if total else (0 if j else 8192)
        if j < c and value(j, 0, 0) is not None:
            ref = 64 * value(j, 0, 0)
        a = 28
        if total:
            spread = sum(w[i] * abs(64 * p[i] - ref) for i in known) // total
            a = table["class_of"][min(spread >> 2, 8191)]
        for i in range(len(read)):
            if p[i] is None:
                read_taps.append(0)
                continue
            d = 64 * p[i] - ref
            entry = table["compand"][1024 * a + min(abs(d) >> 4, 1023)]
            read_taps.append(entry if d >= 0 else -entry)
        refs.append(ref)
        classes.append(a)
        fractions.append(32 * total // sum(w))
    scalars = [4 * a - 64 for a in classes]
    scalars += [(refs[0] >> 7) - 64, refs[1] >> 8, refs[2] >> 8, *fractions]
    scalars += [32 * (c > j and value(j, 0, 0) is not None) for j in (0, 1)]
    scalars += [32 * (l >= i) for i in range(1, 7)]
    scalars += [32, *side] if side else [0] * 23
    x_ = read_taps + scalars
    x_ += [0] * (-len(x_) % 16)
    return x_, clamp(refs[c] + (refs[0] if c else 0), 0, 16320), classes[c]


def hidden(x: list[int], e: int, tensors: dict[str, np.ndarray]) -> np.ndarray:
    """The outputs of the last layer before the head: "Evaluation"."""
    h, i = np.array(x), 0
    while f"expert.{e}.{i}.weight" in tensors:
        weight, bias, shift = (tensors[f"expert.{e}.{i}.{part}"].astype(int) for part in ("weight", "bias", "shift"))
        h = np.clip((weight @ h + bias) >> shift, 0, 127)
        i += 1
    return h


def frozen_outputs(h: np.ndarray, e: int, tensors: dict[str, np.ndarray]) -> list[int]:
    """The outputs of a head that does not learn: "Evaluation"."""
    return ((tensors[f"expert.{e}.head.weight"].astype(int) @ h + tensors[f"expert.{e}.head.bias"] + 64) >> 7).tolist()


Mixture = tuple[list[int], list[int], list[int]]


def mixture(y: list[int], centre: int, a: int, table: Tables) -> Mixture:
    """The parameters w, mu and s: "Mixture and frequencies"."""
    count = len(y) // 3
    logits, means, scales = y[:count], y[count : 2 * count], y[2 * count :]
    e = [table["exp2"][min((max(logits) - logit) >> 2, 1023)] for logit in logits]
    w = [2**14 * part // sum(e) for part in e]
    w[logits.index(max(logits))] += 2**14 - sum(w)
    unit = table["class_scale"][a]
    mu = [clamp(centre + ((clamp(mean, -16384, 16384) * unit) >> 8), -4096, 20416) for mean in means]
    s = [clamp((scale >> 2) + 16 * a + 256, 0, 895) for scale in scales]
    return w, mu, s


def argument(x64: int, mu: int, s: int, table: Tables) -> int:
    """Entry of the logistic table for a place in 1/64 grey level."""
    return clamp((((x64 - mu) * table["inv_mantissa"][s]) >> table["inv_shift"][s]) + 2048, 0, 4095)


def cumulative(m: Mixture, table: Tables) -> Callable[[int], int]:
    """The function F: "Mixture and frequencies"."""

    def f(x: int) -> int:
        if x in (0, 256):
            return x << 16
        g = sum(w * table["logistic"][argument(64 * x - 32, mu, s, table)] for w, mu, s in zip(*m, strict=True)) >> 6
        return g - (g >> 12) + 16 * x

    return f


def low_bounds(f: Callable[[int], int], high: int) -> list[int]:
    """G(0) to G(16): "Nibbles"."""
    bounds = [f(16 * high + i) - f(16 * high) for i in range(17)]
    return [b * (2**24 - 16) // bounds[16] + i for i, b in enumerate(bounds)]


def gradient(m: Mixture, v: int, a: int, table: Tables) -> list[int]:
    """Slope of the code length of the value v by the outputs: "Learning", "Gradient"."""
    p, rows = 0, []
    for w, mu, s in zip(*m, strict=True):
        low, high = argument(64 * v - 32, mu, s, table), argument(64 * v + 32, mu, s, table)
        below = 0 if v == 0 else table["logistic"][low]
        above = 65536 if v == 255 else table["logistic"][high]
        p += w * (above - below)
        rows.append((w, s, low, high, below, above))
    q = 1 / float(p + 1024)
    g: tuple[list[int], ...] = [], [], []
    for w, s, low, high, below, above in rows:
        left, right = (below * (65536 - below)) >> 16, (above * (65536 - above)) >> 16
        ratio = (table["class_scale"][a] * table["inv_mantissa"][s]) >> table["inv_shift"][s]
        by_weight = ((w * p) >> 14) - w * (above - below)
        by_mean = w * (right - left) * ratio
        by_scale = w * ((2 * high - 4095) * right - (2 * low - 4095) * left)
        for part, number, factor in zip(g, (by_weight, by_mean, by_scale), (1024, 11.541560327111707, 4), strict=True):
            part.append(clamp(round(float(number) * q * factor), -16383, 16383))
    return [*g[0], *g[1], *g[2]]


class Head:
    """State of a head that learns: "Learning"."""

    def __init__(self, tensors: dict[str, np.ndarray], e: int, height: int, width: int) -> None:
        trained = tensors[f"expert.{e}.head.weight"].astype(int)
        self.basis = tensors[f"learning.{e}.basis"].astype(int)
        self.mix = tensors[f"learning.{e}.mix"].astype(int)
        self.rate = tensors[f"learning.{e}.rate"].astype(int)
        self.bias = tensors[f"expert.{e}.head.bias"].astype(int)
        self.taps = taps(e // 3 % 3, e % 3)
        directions, count = self.basis.shape
        outputs, hidden = trained.shape
        assert count == hidden + self.taps + 7
        self.fine = np.zeros((outputs, count), int)
        self.fine[:, :hidden] = 65536 * trained
        self.square = np.zeros((outputs, directions))
        self.power, self.seen = 1.0, 0
        self.height, self.width = height, width
        self.kind, self.channel = e // 3 % 3, e % 3
        self.offsets: dict[tuple[int, int], list[int]] = {}  # by table and context
        self.pixels: dict[tuple[int, int], int] = {}
        self.squares = [0] * outputs

    @property
    def weight(self) -> np.ndarray:
        """``fine`` in whole units, halves to even."""
        below, rest = self.fine >> 16, self.fine & 65535
        return below + ((rest > 32768) | ((rest == 32768) & (below % 2 == 1)))

    def inputs(self, h: list[int], x: list[int]) -> list[int]:
        return [*h, *x[: self.taps + 6], 16]

    def contexts(self, numbers: list[int], centre: int, a: int, y: int, x: int, l: int) -> list[tuple[int, int]]:  # noqa: E741
        """Table and context of the sub-pixel in row y and column x of Q_l: "Contexts"."""

        def around(plane: int, places: list[tuple[int, int]]) -> list[int]:
            return [numbers[tap(self.kind, self.channel, plane, place)] for place in places]

        own = around(self.channel, nearest(self.kind))
        first, second, third, fourth = own
        slopes = first - fourth, second - third, first + fourth - second - third
        falls_or_rises = [0 if slope < -16 else 2 if slope > 16 else 1 for slope in slopes]
        found = [8 * min(a // 4, 7) + centre // 2048]
        found.append(9 * falls_or_rises[0] + 3 * falls_or_rises[1] + falls_or_rises[2])
        eight = own + around(self.channel, FURTHER[self.kind])
        found.append(sum(2 ** (7 - i) for i in range(8) if eight[i] > 0))
        g, r = (sum(around(plane, nearest(self.kind))) for plane in (0, 1))
        found.append(5 * (bend(g, (12, 36, 80, 160)) + 4) + bend(r, (24, 80)) + 2)
        scalars = numbers[self.taps :]
        classes = [(scalars[plane] + 64) // 4 for plane in range(3) if plane != self.channel]
        found.append(8 * min(classes[0] // 4, 7) + min(classes[1] // 4, 7))
        found.append(8 * clamp((scalars[4] + 16) // 4, 0, 7) + clamp((scalars[5] + 16) // 4, 0, 7))
        for side in (128, 32):
            while -(-self.height // side) * -(-self.width // side) > 65536:
                side *= 2
            found.append((2**l * y // side) * -(-self.width // side) + 2**l * x // side)
        return list(enumerate(found))

    def outputs(self, u: list[int], contexts: list[tuple[int, int]]) -> list[int]:
        zero = [0] * len(self.bias)
        offset = sum(np.array(self.offsets.get(context, zero)) for context in contexts) >> 8
        return ((self.weight @ np.array(u) + self.bias + offset + 64) >> 7).tolist()

    def step(self, u: list[list[int]], g: list[list[int]], contexts: list[list[tuple[int, int]]]) -> None:
        """Inputs, gradients and contexts of a batch: one row a sub-pixel. int64 holds the sums: they are below
        2**53."""
        self.step_of_weights(u, g)
        self.step_of_offsets(g, contexts)

    def step_of_offsets(self, g: list[list[int]], contexts: list[list[tuple[int, int]]]) -> None:
        columns = zip(*g, strict=True)
        self.squares = [
            square + sum(int(b) ** 2 for b in column) for square, column in zip(self.squares, columns, strict=True)
        ]
        for context in {context for row in contexts for context in row}:
            inside = [slopes for slopes, row in zip(g, contexts, strict=True) if context in row]
            self.pixels[context] = self.pixels.get(context, 0) + len(inside)
            patience = 256 if context[0] > 5 else 512
            moved = self.offsets.setdefault(context, [0] * len(self.bias))
            for o, square in enumerate(self.squares):
                total = sum(int(slopes[o]) for slopes in inside)
                factor = 2.0**32 * float(self.seen) / (float(square) + 2.0**13 * float(self.seen))
                move = float(total) * factor / (float(patience) + float(self.pixels[context]))
                moved[o] = clamp(moved[o] - round(clamp(move, -(2.0**20), 2.0**20)), -(2**27), 2**27)

    def step_of_weights(self, u: list[list[int]], g: list[list[int]]) -> None:
        projected = np.array(g).T @ np.array(u) @ self.basis.T
        self.power = self.power * 0.95
        settled = 1 - self.power
        rate = (self.rate / 256) / math.sqrt(1 + self.seen / 16384)
        q = self.mixed(projected.astype(float)) / len(u)
        self.square = 0.95 * self.square + (1 - 0.95) * (q * q)
        v = self.mixed(rate * q / (np.sqrt(self.square / settled) + 2.0**-20))
        z = np.array([[round(clamp(entry, -(2.0**36), 2.0**36)) for entry in row] for row in v.tolist()])
        self.fine = np.clip(self.fine - z @ self.basis, -16383 * 65536, 16383 * 65536)
        self.seen += len(u)

    def mixed(self, rows: np.ndarray) -> np.ndarray:
        """Sums of float products over the rows: each product rounded, then added, in ascending order of the rows."""
        out = np.zeros(rows.shape)
        for j in range(len(rows)):
            out = out + (self.mix[:, j, None] / 65536) * rows[j]
        return out


def order(n: int) -> list[int]:
    """Numbers in raster order of the pixels of an atom of a file with learning heads: "Order"."""
    step = max(1, n * 40503 // 65536)
    while math.gcd(step, n) != 1:
        step += 1
    return [i * step % n for i in range(n)]


def batches(n: int, seen: int, ends: list[int] | None) -> Iterator[int]:
    """Sizes of an atom's batches: "Batches". ends: sums of the sizes in the batches chunk, None without one."""
    left = n
    while left:
        if ends is None:
            size = clamp(seen // 32, 128, 4096)
        else:
            size = min((t - seen for t in ends if t > seen), default=65536)
        size = min(size, left, 65536)
        yield size
        left -= size
        seen += size


def changed(data: bytes, tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays of a model with the changes of a file: "Changes". data: the pace and the words."""
    pace, stream = data[0], Stream(np.frombuffer(data[1:], "<u4"))
    tensors = dict(tensors)
    for e in range(18):
        i = 0
        while f"expert.{e}.{i}.bias" in tensors:
            bias, shift = (tensors[f"expert.{e}.{i}.{part}"].tolist() for part in ("bias", "shift"))
            number = stream.symbol([0, *(2**23 + n * 2**19 for n in range(17))])
            if number:
                ratio = (1, 2, 3, 4, 5, 7, 9, 12, 15, 19, 24, 30, 36, 43, 50, 57)[number - 1]
                weights = [ratio ** abs(s) * 64 ** (15 - abs(s)) for s in range(-15, 16)]
                bounds = [sum(weights[:n]) * (2**24 - 31) // sum(weights) + n for n in range(32)]
                bias = [b + (stream.symbol(bounds) - 15) * 2 ** (s + 2) for b, s in zip(bias, shift, strict=True)]
            tensors[f"expert.{e}.{i}.bias"] = np.array(bias)
            i += 1
        if f"learning.{e}.rate" in tensors:
            rate = tensors[f"learning.{e}.rate"].tolist()
            tensors[f"learning.{e}.rate"] = np.array([min((r * pace) >> 4, 2**31 - 1) for r in rate])
    assert stream.state == 0
    assert not stream.words
    return tensors


def decode(container, tensors: dict[str, np.ndarray], level: int = 0, least: int = 2**15) -> np.ndarray:
    """Q_level, uint8 [channels, rows, columns], of an image without batches of more than 65,536 pixels. level: 0, or
    level - 1 is cut. least: pixels that a cut level adds."""
    table = {name.split(".")[1]: array.tolist() for name, array in tensors.items() if name.startswith("table.")}
    if container.changes is not None:
        tensors = changed(container.changes, tensors)
    side = [byte - 256 if byte > 127 else byte for byte in container.side_info]
    height, width, (py, px) = container.height, container.width, container.phase
    levels = 0
    if height * width > 1:
        levels = max(1, int(np.ceil(np.log2(max(height - py, width - px)))))
    stream = Streams(container.segments)
    turn = 0
    flat = [s << 20 for s in range(17)]
    if container.code:
        number = 16 * stream.symbol(flat) + stream.symbol(flat)
        stream.end_batch()
        side = tensors["side.codes"].astype(int)[number].tolist()
        if container.turned:
            turn = stream.symbol(flat)
            assert 0 < turn < (8 if container.height == container.width else 4)
            stream.end_batch()
    channels = range(container.channels)
    high = [stream.symbol(flat) for _ in channels]
    known = {(py, px, c): 16 * high[c] + stream.symbol(flat) for c in channels}  # (y, x, channel) in the image
    stream.end_batch()
    areas = [height * width]  # of Q_0, Q_1, ...
    areas += [-(-(height - py) // 2**l) * -(-(width - px) // 2**l) for l in range(1, levels + 1)]  # noqa: E741
    cuts = [l for l in range(levels) if areas[l] - areas[l + 1] >= least]  # noqa: E741
    heads = [Head(tensors, e, height, width) for e in range(18)] if container.learning else []

    atoms = [(l, k, c) for l in reversed(range(levels)) for k in range(3) for c in channels]  # noqa: E741
    starts = list(container.calls) if container.calls is not None else list(range(len(atoms)))
    for start, end in pairwise([*starts, len(atoms)]):
        decoded = {}
        for l, k, c in atoms[start:end]:  # noqa: E741
            if l < level:
                continue
            e = (min(l, 1) * 3 + k) * 3 + c
            oy, ox = (0, 0) if l == 0 else (py, px)  # of Q_l in the image
            qy, qx = (py, px) if l == 0 else (0, 0)
            step = 2**l
            # q: the known sub-pixels of Q_l, by their place in Q_l
            q = {
                ((y - oy) // step, (x - ox) // step, j): v
                for (y, x, j), v in known.items()
                if (y - oy) % step == 0 and (x - ox) % step == 0
            }
            rows, columns = -(-(height - oy) // step), -(-(width - ox) // step)
            first = ((1 - qy, 1 - qx), (qy, 1 - qx), (1 - qy, qx))[k]
            places = [(y, x) for y in range(first[0], rows, 2) for x in range(first[1], columns, 2)]
            sizes = [len(places)] if places else []
            learns = heads and len(places) >= 64
            if learns:
                places = [places[number] for number in order(len(places))]
                sizes = list(batches(len(places), heads[e].seen, container.batch_ends))
            if places and l in cuts:
                cuts.remove(l)
                stream.end()
            for size in sizes:
                batch, places = places[:size], places[size:]
                inside, mixtures = [], []
                for y, x in batch:
                    numbers, centre, a = inputs(q, y, x, l, k, c, side, table)
                    h = hidden(numbers, e, tensors)
                    if learns:
                        u = heads[e].inputs(h.tolist(), numbers)
                        contexts = heads[e].contexts(numbers, centre, a, y, x, l)
                        mixtures.append(mixture(heads[e].outputs(u, contexts), centre, a, table))
                        inside.append((u, a, contexts))
                    else:
                        mixtures.append(mixture(frozen_outputs(h, e, tensors), centre, a, table))
                functions = [cumulative(m, table) for m in mixtures]
                high = [stream.symbol([f(16 * h) for h in range(17)]) for f in functions]
                values = [16 * h + stream.symbol(low_bounds(f, h)) for h, f in zip(high, functions, strict=True)]
                stream.end_batch()
                for (y, x), v in zip(batch, values, strict=True):
                    decoded[oy + step * y, ox + step * x, c] = v
                if learns:
                    us, classes, contexts = zip(*inside, strict=True)
                    slopes = [gradient(*known, table) for known in zip(mixtures, values, classes, strict=True)]
                    heads[e].step(us, slopes, contexts)
        known |= decoded
    stream.end()
    assert level or not stream.left
    planes = np.zeros((container.channels, height, width), np.uint8)
    for (y, x, c), value in known.items():
        planes[c, y, x] = value
    if turn & 4:
        planes = planes.transpose(0, 2, 1)
    if turn & 2:
        planes = planes[:, ::-1]
    if turn & 1:
        planes = planes[:, :, ::-1]
    return planes[:, py :: 2**level, px :: 2**level] if level else planes
