"""Decode damaged and forged files: python -m tests.fuzz.containers --count 200000 --seed 1

Every mutant of a good file must give exactly the samples of a file that it was made from, or FormatError or its
CutOffError, or ModelError where it names another model; within a limit of time and of memory. Four fifths of the
mutants keep their old checksum, as damage does; the others ("deep") get a new one, so that what lies behind it is
tried. Some are decoded in part, as a level or a region, for which the checksum of the file is not compared. Mutant
number i of a seed is always the same: --first i --count 1 makes it again, and --out keeps it.

The pixel checksum is that of the raster, without its shape: a mutant that names another size or layout and gets past
the checksum of the file can be a good file of another image with the same raster, as of 4x12 black pixels instead of
12x4. These are counted as "reshaped".
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import random
import signal
import sys
import time
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

import ardmzip
from ardmzip import (
    FormatError,
    ModelError,
    OptionError,
    api,
    changes,
    codec,
    container,
    formats,
    model,
    network,
    reading,
)
from ardmzip.body import subsampled
from ardmzip.image import to_planes

FOLDERS = [Path(__file__).parent.parent / name for name in ("golden", "odd")]
SECONDS = 20  # a mutant; the machine may be busy
MEMORY = 1 << 30  # bytes beside what the program itself takes
DEEP = 0.2
PARTLY = 0.15  # of the mutants come from seeds of tiles and levels, and are decoded in part
LARGE = 0.1  # of the deep mutants come from large seeds, which take long to decode
SEALED = 0.9  # of the files with a changed field have a good checksum of the head
SMALL_PIXELS = 32 * 32
EXACT, RESHAPED = "exact", "reshaped"
FORMAT, CUT_OFF, MODEL, OPTION = "FormatError", "CutOffError", "ModelError", "OptionError"
GOOD = EXACT, RESHAPED, FORMAT, CUT_OFF, MODEL, OPTION

Region = tuple[int, int, int, int]


@dataclass(frozen=True)
class Part:
    """A level or a region, or the whole image."""

    level: int = 0
    region: Region | None = None


WHOLE = Part()


@dataclass(frozen=True)
class Samples:
    """What a file, or a part of it, decodes to."""

    kind: str
    shape: tuple[int, ...]
    raster: bytes

    @property
    def area(self) -> int:
        return self.shape[0] * self.shape[1]


Decompress = Callable[[bytes, Part], Samples]


@dataclass(frozen=True)
class Seed:
    """A good file and what it decodes to; ``phase`` is that of its lattice."""

    name: str
    data: bytes
    samples: Samples
    phase: tuple[int, int]

    def part(self, part: Part, phase: tuple[int, int] | None = None) -> Samples | None:
        """What a part decodes to, in this phase if it is given; None for a region that is outside the image."""
        array = np.frombuffer(self.samples.raster, self.samples.kind).reshape(self.samples.shape)
        if part.region is not None:
            x, y, width, height = part.region
            inside = x + width <= array.shape[1] and y + height <= array.shape[0]
            return samples(array[y : y + height, x : x + width]) if inside else None
        return samples(subsampled(array, phase or self.phase, part.level) if part.level else array)


@dataclass(frozen=True)
class Mutant:
    """A changed file, what of it is decoded, and the samples that this may give: those of its parents."""

    data: bytes
    deep: bool
    how: str
    samples: tuple[Samples, ...]
    part: Part = WHOLE


def samples(array: np.ndarray) -> Samples:
    return Samples(array.dtype.str, array.shape, array.tobytes())


def restored(data: bytes, part: Part = WHOLE, max_pixels: int = container.MAX_PIXELS) -> Samples:
    """The samples of a file; the metadata, palette and so on must make an image too, where Pillow has a mode."""
    picture = api.restore(data, level=part.level, region=part.region, device="cpu", max_pixels=max_pixels)
    if formats.mode(picture.format) is not None:
        formats.to_image(picture)
    return samples(picture.samples)


def seed(name: str, data: bytes, array: np.ndarray) -> Seed:
    array = array if array.ndim == 3 else array[:, :, None]
    return Seed(name, data, samples(array), container.unpack(data).phase)


def seeds() -> list[Seed]:
    """The golden files, and fresh ones: of 1x1 to 16x16 pixels, of tiles, and with checksums of levels."""
    found = []
    for path in sorted(path for folder in FOLDERS for path in folder.glob("*.ardm")):
        image = reading.read(path.with_suffix(".png").read_bytes())
        found.append(seed(path.stem, path.read_bytes(), image.samples))
    rng = np.random.default_rng(0)
    for height, width, channels in [(1, 1, 3), (1, 7, 3), (5, 1, 1), (2, 2, 1), (8, 8, 3), (16, 16, 3), (16, 13, 1)]:
        y, x = np.mgrid[:height, :width]
        smooth = (9 * y + 5 * x)[:, :, None] + np.arange(channels) * 20 + rng.integers(0, 6, (height, width, channels))
        array = smooth.astype(np.uint8) if channels == 3 else smooth.astype(np.uint8)[:, :, 0]
        for options in ({}, {"learn": False, "steps": 3}):
            data = ardmzip.compress(array, device="cpu", **options)
            found.append(seed(f"{width}x{height}x{channels}", data, array))
    others = {"black": np.zeros((4, 12), np.uint8), "flat": np.full((6, 4, 3), 255, np.uint8)}
    for name, array in others.items():
        found.append(seed(name, ardmzip.compress(array, device="cpu"), array))
    y, x = np.mgrid[:100, :100]
    gray = (x + y).astype(np.uint8)
    alpha = np.stack([gray, 255 - gray, gray // 2, np.uint8(200) * (x > y)], -1)
    tiled = {
        "tiles": (gray, {"model": "photo", "steps": 4}),
        "tiles-stored": (gray // 50, {}),
        "tiles-alpha": (alpha, {}),
    }
    tiled["tiles-deep"] = gray[:70, :70].astype(np.uint16) * 250, {}
    for name, (array, options) in tiled.items():
        found.append(seed(name, ardmzip.compress(array, tile=64, device="cpu", **options), array))
    y, x = np.mgrid[:210, :211]
    levels = {
        "levels": ((x + y).astype(np.uint8), {"model": "photo", "learn": False}),
        "levels-stored": (0 * x == 1, {}),
    }
    for name, (array, options) in levels.items():
        found.append(
            seed(name, ardmzip.compress(array.astype(np.uint8), device="cpu", **options), array.astype(np.uint8))
        )
    array = rng.integers(90, 110, (24, 24, 3)).astype(np.uint8)
    found.append(seed("changes", changed(array, rng, ("9.", "10.", "17.")), array))
    found.append(seed("changes-pace", changed(array, rng, ()), array))
    return found


def changed(samples: np.ndarray, rng: np.random.Generator, experts: tuple[str, ...]) -> bytes:
    """A file with changes of the model, of the biases of some experts and of the pace, which no encoder would make for
    so small an image."""
    loaded, backend = model.load("photo"), network.backend("cpu")
    steps = {
        name: rng.integers(-2, 3, outputs).astype(np.int8)
        for name, outputs in changes.layers(loaded).items()
        if name.startswith(experts)
    }
    made = changes.Changes(steps, 20)
    coded = codec.encode(to_planes(samples), changes.apply(made, loaded), backend)
    return container.pack(replace(coded, changes=changes.pack(made, loaded)))


# Bytes


def flip(data: bytes, rng: random.Random) -> bytes:
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8))):
        out[rng.randrange(len(out))] ^= 1 << rng.randrange(8)
    return bytes(out)


def overwrite(data: bytes, rng: random.Random) -> bytes:
    at, count = rng.randrange(len(data)), rng.choice((1, 1, 2, 4, 16))
    fill = rng.choice((b"\0" * count, b"\xff" * count, rng.randbytes(count)))
    return data[:at] + fill[: len(data) - at] + data[at + count :]


def truncate(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data))]


def insert(data: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(data) + 1)
    return data[:at] + rng.choice((b"\0", b"\xff", rng.randbytes(rng.randint(1, 40)), data)) + data[at:]


def remove(data: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(data))
    return data[:at] + data[at + rng.choice((1, 1, 4, 20)) :]


def copy(data: bytes, rng: random.Random) -> bytes:
    """A part of the file over another part."""
    source, target, count = rng.randrange(len(data)), rng.randrange(len(data)), rng.randint(1, 16)
    part = data[source : source + count]
    return data[:target] + part + data[target + len(part) :]


BYTES = (flip, overwrite, truncate, insert, remove, copy)


def splice(data: bytes, other: bytes, rng: random.Random) -> bytes:
    """The beginning of one file and the end of another."""
    cut = rng.randrange(len(data) + 1)
    return data[:cut] + other[(cut if rng.random() < 0.5 else rng.randrange(len(other) + 1)) :]


# Parts of a file (docs/FORMAT.md, "File")


TILE, ALPHA, LOW_BITS, STREAM, HEAD, CHANGES = 0x8C, 0x86, 0x8A, 0x83, 0x0D, 0x84
#: Flag of the short form: the height is the width.
SQUARE = 0x10
MAGIC, SHORT_MAGIC = b"\x9aARD\x01", b"\x9as"


@dataclass
class Body:
    """Flags and chunks of a tile, of alpha or of low bits; chunks that hold a body are taken apart too."""

    flags: int
    chunks: list[tuple[int, bytes | Body]]
    #: What stands before the flags: two bytes of low bits.
    head: bytes = b""
    #: Of tiles and files.
    pixel_crc: int | None = None

    def join(self) -> bytes:
        return self.head + bytes([self.flags]) + self._rest()

    def _rest(self) -> bytes:
        crc = b"" if self.pixel_crc is None else self.pixel_crc.to_bytes(4, "little")
        return joined(self.chunks) + b"\0" + crc

    def bodies(self) -> list[Body]:
        """This one and those within it."""
        return [self, *(one for _, inner in self.chunks if isinstance(inner, Body) for one in inner.bodies())]


@dataclass
class Parts(Body):
    """A file taken apart, so that a single field can be changed."""

    width: int = 0
    height: int = 0
    model: bytes = b""
    short: bool = False

    def join(self) -> bytes:
        if self.short:
            return checked(self._start() + b"".join(bytes_of(inner) for _, inner in self.chunks), self.pixel_crc or 0)
        return checked(self._start() + self._rest())

    def seal(self) -> None:
        """Correct the checksum of the head, so that what lies behind it is tried."""
        for index, (kind, _) in enumerate(self.chunks):
            if kind == HEAD:
                before = self._start() + joined(self.chunks[:index]) + bytes([HEAD, 4])
                self.chunks[index] = HEAD, zlib.crc32(before).to_bytes(4, "little")

    def _start(self) -> bytes:
        magic = SHORT_MAGIC if self.short else MAGIC
        height = b"" if self.short and self.flags & SQUARE else varint(self.height)
        return magic + bytes([self.flags]) + varint(self.width) + height + self.model


def joined(chunks: Sequence[tuple[int, bytes | Body]]) -> bytes:
    out = b""
    for kind, inner in chunks:
        out += bytes([kind]) + varint(len(bytes_of(inner))) + bytes_of(inner)
    return out


def bytes_of(inner: bytes | Body) -> bytes:
    return inner if isinstance(inner, bytes) else inner.join()


def varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def checked(body: bytes, pixel_crc: int = 0) -> bytes:
    """With the checksum of a file, or of one in the short form, which has that of the pixels in it."""
    crc = zlib.crc32(body) ^ pixel_crc
    return (
        body + (crc & 0xFFFFFF).to_bytes(3, "little") if container.is_short(body) else body + crc.to_bytes(4, "little")
    )


def unchecked(data: bytes) -> bytes:
    """The same without it."""
    return data[:-3] if container.is_short(data) else data[:-4]


def take_apart(data: bytes) -> Parts:
    """The parts of a good file."""
    short = container.is_short(data)
    start = len(SHORT_MAGIC if short else MAGIC)
    width, at = number(data, start + 1)
    height, at = (width, at) if short and data[start] & SQUARE else number(data, at)
    if short:
        body = unchecked(data)
        crc = int.from_bytes(data[len(body) :], "little") ^ zlib.crc32(body)
        stream = [(STREAM, body[at + 2 :])]
        return Parts(data[start], stream, b"", crc, width, height, data[at : at + 2], True)
    chunks, end = take_chunks(data, at + 4)
    crc = int.from_bytes(data[end : end + 4], "little")
    return Parts(data[start], chunks, b"", crc, width, height, data[at : at + 4])


def number(data: bytes, at: int) -> tuple[int, int]:
    """The varint there, and where it ends."""
    value = shift = 0
    while True:
        value, shift, at = value | (data[at] & 0x7F) << shift, shift + 7, at + 1
        if data[at - 1] < 0x80:
            return value, at


def take_chunks(data: bytes, at: int) -> tuple[list[tuple[int, bytes | Body]], int]:
    """The chunks from there on, and where the end marker ends."""
    chunks: list[tuple[int, bytes | Body]] = []
    while kind := data[at]:
        length, at = number(data, at + 1)
        chunks.append((kind, take_payload(kind, data[at : at + length])))
        at += length
    return chunks, at + 1


def take_payload(kind: int, payload: bytes) -> bytes | Body:
    before = 2 if kind == LOW_BITS else 0
    if kind not in (TILE, ALPHA, LOW_BITS) or len(payload) == before:
        return payload
    chunks, end = take_chunks(payload, before + 1)
    crc = int.from_bytes(payload[end:], "little") if kind == TILE else None
    return Body(payload[before], chunks, payload[:before], crc)


def change_size(p: Parts, rng: random.Random) -> None:
    near = p.width, p.height, p.width + 1, p.height - 1
    other = rng.choice((1, 2, *near, rng.randint(1, 300), 2 ** rng.randrange(36)))
    if rng.random() < 0.2:
        p.width, p.height = p.height, p.width
    elif rng.random() < 0.5:
        p.width = max(0, other)
    else:
        p.height = max(0, other)
    if p.short and rng.random() < 0.5:  # so that the height is written
        p.flags &= ~SQUARE


def change_flags(p: Parts, rng: random.Random) -> None:
    rng.choice(p.bodies()).flags ^= 1 << rng.randrange(8)


def change_model(p: Parts, rng: random.Random) -> None:
    p.model = flip(p.model, rng)


def change_pixel_crc(p: Parts, rng: random.Random) -> None:
    body = rng.choice([body for body in p.bodies() if body.pixel_crc is not None])
    assert body.pixel_crc is not None
    body.pixel_crc ^= rng.choice((1 << rng.randrange(32), rng.randrange(1, 2**32)))


def change_payload(p: Parts, rng: random.Random) -> None:
    chunks = with_chunks(p, rng)
    index = rng.randrange(len(chunks))
    kind, inner = chunks[index]
    old = bytes_of(inner)
    chunks[index] = kind, rng.choice(BYTES)(old, rng) if old else rng.randbytes(rng.randint(1, 8))


def with_chunks(p: Parts, rng: random.Random) -> list[tuple[int, bytes | Body]]:
    """The chunks of a body that has some."""
    return rng.choice([body.chunks for body in p.bodies() if body.chunks])


def change_words(p: Parts, rng: random.Random) -> None:
    """Whole words of a stream, so that its length stays a multiple of four; or of what stands in place of streams."""
    every = [
        (body.chunks, i) for body in p.bodies() for i, (_, inner) in enumerate(body.chunks) if isinstance(inner, bytes)
    ]
    streams = [(chunks, i) for chunks, i in every if chunks[i][0] == STREAM]
    if not every:
        return
    chunks, index = rng.choice(streams or every)
    kind, inner = chunks[index]
    assert isinstance(inner, bytes)
    words = list(np.frombuffer(inner[: len(inner) // 4 * 4], "<u4").tolist())
    at = rng.randrange(len(words) + 1)
    action = rng.randrange(5)
    if action == 0:
        words[at:at] = [rng.choice((0, 1, 2**32 - 1, rng.randrange(2**32)))]
    elif action == 1:
        del words[at : at + rng.choice((1, 1, 5, 1000))]
    elif action == 2:
        words.reverse()
    elif action == 3:
        rng.shuffle(words)
    elif words:
        words[at % len(words)] ^= 1 << rng.randrange(32)
    chunks[index] = kind, np.array(words, "<u4").tobytes()


KINDS = (0x81, 0x82, 0x83, 0x84, 0x87, 0x05, 0x86, 0x88, 0x89, 0x8A, 0x0B, 0x0D, 0x8B, 0x8C)


def change_chunks(p: Parts, rng: random.Random) -> None:
    chunks = with_chunks(p, rng)
    index, action = rng.randrange(len(chunks)), rng.randrange(6)
    if action == 0:
        del chunks[index]
    elif action == 1:
        chunks.insert(rng.randrange(len(chunks) + 1), chunks[index])
    elif action == 2:
        rng.shuffle(chunks)
    elif action == 3:  # of any kind, often one that is known
        kind = rng.choice((*KINDS, rng.randrange(1, 256)))
        chunks.insert(rng.randrange(len(chunks) + 1), (kind, rng.randbytes(rng.choice((0, 1, 2, 4, 24, 300)))))
    elif action == 4:
        chunks[index] = rng.choice((*KINDS, rng.randrange(1, 256))), chunks[index][1]
    else:  # a stream in two
        kind, inner = chunks[index]
        whole = bytes_of(inner)
        cut = rng.randrange(len(whole) // 4 + 1) * 4
        chunks[index : index + 1] = [(kind, whole[:cut]), (kind, whole[cut:])]


def change_changes(p: Parts, rng: random.Random) -> None:
    """Steps and paces of the changes of the model, and the words that code them; or changes for a file without any."""
    try:
        loaded = model.find(p.model)
    except ModelError:
        loaded = model.load("photo")
    index = next((i for i, (kind, _) in enumerate(p.chunks) if kind == CHANGES), None)
    made = changes.Changes()
    if index is None:
        index = sum(kind in (0x88, 0x05, 0x8B) for kind, _ in p.chunks[:3])
        p.chunks.insert(index, (CHANGES, b""))
        if p.short:  # has no room for them
            p.short, p.model, p.flags = False, loaded.id, p.flags & ~SQUARE
            p.chunks[1:] = [(kind, bytes_of(inner) + bytes(-len(bytes_of(inner)) % 4)) for kind, inner in p.chunks[1:]]
    else:
        with contextlib.suppress(FormatError, IndexError):
            payload = bytes_of(p.chunks[index][1])
            made = changes.unpack(payload[number(payload, 0)[1] :], loaded)
    action, steps = rng.randrange(5), dict(made.steps)
    name, outputs = rng.choice(list(changes.layers(loaded).items()))
    if action == 0:
        made = replace(made, pace=rng.choice((0, 1, 15, 16, 17, 255)))
    elif action == 1:  # another step
        steps[name] = steps.get(name, np.zeros(outputs, np.int8)).copy()
        steps[name][rng.randrange(outputs)] = rng.randint(-changes.STEP_MAX, changes.STEP_MAX)
    elif action == 2:  # the largest steps, by which sums may leave 32 bits
        steps = {
            name: np.full(outputs, rng.choice((-15, 15)), np.int8) for name, outputs in changes.layers(loaded).items()
        }
    elif action == 3 and steps:
        del steps[rng.choice(list(steps))]
    packed = changes.pack(replace(made, steps=steps), loaded)
    if action == 4:  # words that no writer makes
        at = 1 + 4 * rng.randrange(len(packed) // 4 + 1)
        word = rng.choice((bytes(4), b"\xff" * 4, rng.randbytes(4)))
        packed = packed[:at] + word + packed[at + rng.choice((0, 4)) :]
    p.chunks[index] = CHANGES, varint(rng.choice((0, 1, 2**31 - 1, 2**31))) + packed


FIELDS = (
    change_size, change_flags, change_model, change_pixel_crc, change_payload, change_words, change_chunks,
    change_changes,
)  # fmt: skip


def cross(p: Parts, q: Parts, rng: random.Random) -> None:
    """A field of another file; chunks may come from, and go, anywhere within it."""
    what = rng.choice(("flags", "size", "model", "chunks", "chunk", "pixel_crc"))
    if what == "size":
        p.width, p.height = q.width, q.height
    elif what == "chunk":
        chunks = with_chunks(p, rng)
        chunks[rng.randrange(len(chunks))] = rng.choice(with_chunks(q, rng))
    else:
        setattr(p, what, getattr(q, what))


# Running


def mutant(known: Sequence[Seed], seed: int, number: int) -> Mutant:
    """Mutant ``number`` of a seed; it differs from all good files."""
    rng = random.Random(f"{seed} {number}")
    deep = rng.random() < DEEP
    small = [one for one in known if one.samples.area <= SMALL_PIXELS]
    pool = small if deep and rng.random() >= LARGE else known
    partly = rng.random() < PARTLY
    if partly:
        pool = [one for one in known if one.name.startswith(("tiles", "levels"))]
    while True:
        first, second = rng.choice(pool), rng.choice(pool)
        parents: tuple[Seed, ...] = (first,)
        if not deep or rng.random() < 0.3:
            how = rng.choice((*BYTES, splice)).__name__
            if how == "splice":
                data, parents = splice(first.data, second.data, rng), (first, second)
            else:
                data = globals()[how](first.data, rng)
            if deep:
                data = checked(unchecked(data), zlib.crc32(first.samples.raster) if container.is_short(data) else 0)
        else:
            parts = take_apart(first.data)
            how = rng.choice((*FIELDS, cross)).__name__
            if how == "cross":
                cross(parts, take_apart(second.data), rng)
                parents = (first, second)
            else:
                for _ in range(rng.choice((1, 1, 1, 2))):
                    if parts.chunks:
                        globals()[how](parts, rng)
            if rng.random() < SEALED:
                parts.seal()
            data = parts.join()
        if all(data != one.data for one in known):
            part = some_part(first, rng) if partly else WHOLE
            # a new checksum makes stored samples of another phase a good file
            phases = tuple(itertools.product((0, 1), repeat=2)) if deep and part.level else (None,)
            parts_of = [one.part(part, phase) for one in parents for phase in phases]
            given = tuple(found for found in parts_of if found is not None)
            return Mutant(data, deep, how, given, part)


def some_part(one: Seed, rng: random.Random) -> Part:
    """A level, or a region, of a file."""
    height, width = one.samples.shape[:2]
    if rng.random() < 0.5:
        return Part(level=rng.choice((1, 1, 2, 3, 7)))
    x, y = rng.randrange(width), rng.randrange(height)
    return Part(region=(x, y, rng.randint(1, width - x), rng.randint(1, height - y)))


def outcome(m: Mutant, decompress: Decompress) -> str:
    """What came of decoding; anything but GOOD is a failure."""
    try:
        found = decompress(m.data, m.part)
    except (FormatError, ModelError, OptionError) as error:
        text = str(error)
        if not text or "\n" in text or len(text) > 300:
            return f"not one clear line: {text!r}"
        if isinstance(error, OptionError) and m.part.region is None:
            return f"OptionError: {text}"
        return type(error).__name__
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        return f"{type(error).__name__}: {error}"
    if found in m.samples:
        return EXACT
    unchecked = m.deep or m.part != WHOLE
    return RESHAPED if unchecked and found.raster in [one.raster for one in m.samples] else "wrong pixels"


class TooSlow(BaseException):
    """Not an Exception, so that nothing takes it for its own."""


def limited(decompress: Decompress) -> Decompress:
    """With a limit of time, where the system has alarms."""
    if not hasattr(signal, "setitimer"):
        return decompress

    def alarm(_number: int, _frame: object) -> None:
        raise TooSlow(f"more than {SECONDS} s")

    def work(data: bytes, part: Part) -> Samples:
        signal.setitimer(signal.ITIMER_REAL, SECONDS)
        try:
            return decompress(data, part)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)

    signal.signal(signal.SIGALRM, alarm)
    return work


def limit_memory() -> None:
    """From now on MEMORY more bytes, where the system can tell and limit."""
    status = Path("/proc/self/statm")
    if status.exists():
        import resource

        most = int(status.read_text().split()[0]) * resource.getpagesize() + MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (most, most))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.containers", description=__doc__.split("\n")[0])
    parser.add_argument("--count", type=int, default=10_000, help="mutants to decode")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--first", type=int, default=0, help="number of the first mutant")
    parser.add_argument("--out", type=Path, help="folder for the mutants that fail")
    options = parser.parse_args()
    known = seeds()
    most = max(one.samples.area for one in known)

    def decompress(data: bytes, part: Part) -> Samples:
        return restored(data, part, most)

    for one in known:  # compiles the kernels, and shows that the seeds are good
        if decompress(one.data, WHOLE) != one.samples:
            raise SystemExit(f"{one.name} does not decode to its image")
    limit_memory()
    work, counts, slowest = limited(decompress), Counter[tuple[bool, str]](), 0.0
    failures = 0
    started = time.perf_counter()
    for number in range(options.first, options.first + options.count):
        m = mutant(known, options.seed, number)
        begun = time.perf_counter()
        what = outcome(m, work)
        slowest = max(slowest, time.perf_counter() - begun)
        if what not in GOOD:
            failures += 1
            depth, part = "deep" if m.deep else "shallow", "" if m.part == WHOLE else f", {m.part}"
            print(f"mutant {number} ({m.how}, {depth}, {len(m.data)} bytes{part}): {what}")
            if options.out is not None:
                options.out.mkdir(parents=True, exist_ok=True)
                (options.out / f"{options.seed}-{number}.ardm").write_bytes(m.data)
            what = what.partition(":")[0]
        counts[m.deep, what] += 1
    seconds = time.perf_counter() - started
    for (deep, what), count in sorted(counts.items()):
        print(f"{'deep' if deep else 'shallow':<8} {what:<12} {count:>8}")
    print(
        f"{options.count} mutants, {failures} failures, {options.count / seconds:.0f} executions/s, "
        f"the slowest {slowest:.2f} s"
    )
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
