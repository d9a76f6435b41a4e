"""Decode damaged and forged files: python -m tests.fuzz.containers --count 200000 --seed 1

Every mutant of a good file must give exactly the pixels of a file that it was made from, or FormatError, or ModelError
where it names another model; within a limit of time and of memory. Four fifths of the mutants keep their old checksum,
as damage does; the others ("deep") get a new one, so that what lies behind it is tried. Mutant number i of a seed is
always the same: --first i --count 1 makes it again, and --out keeps it.

The pixel checksum is that of the raster, without its size: a deep mutant that names another size can be a good file
of another image with the same raster, as of 4x12 black pixels instead of 12x4. These are counted as "reshaped".
"""

from __future__ import annotations

import argparse
import random
import signal
import sys
import time
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

import ardmzip
from ardmzip import FormatError, ModelError

GOLDEN = Path(__file__).parent.parent / "golden"
SECONDS = 20  # a mutant; the machine may be busy
MEMORY = 1 << 30  # bytes beside what the program itself takes
DEEP = 0.2
LARGE = 0.1  # of the deep mutants come from large seeds, which take long to decode
SMALL_PIXELS = 16 * 16
EXACT, RESHAPED, FORMAT, MODEL = GOOD = "exact", "reshaped", "FormatError", "ModelError"

Pixels = tuple[str, tuple[int, int], bytes]
Decompress = Callable[[bytes], Image.Image]


@dataclass(frozen=True)
class Seed:
    """A good file and what it decodes to."""

    name: str
    data: bytes
    pixels: Pixels

    @property
    def area(self) -> int:
        return self.pixels[1][0] * self.pixels[1][1]


@dataclass(frozen=True)
class Mutant:
    """A changed file, and the pixels that it may give: those of its parents."""

    data: bytes
    deep: bool
    how: str
    pixels: tuple[Pixels, ...]


def pixels(image: Image.Image) -> Pixels:
    return image.mode, image.size, image.tobytes()


def seeds() -> list[Seed]:
    """The golden files, and fresh ones of 1x1 to 16x16 pixels."""
    found = []
    for path in sorted(GOLDEN.glob("*.ardm")):
        with Image.open(path.with_suffix(".png")) as image:
            found.append(Seed(path.stem, path.read_bytes(), pixels(image)))
    rng = np.random.default_rng(0)
    for height, width, channels in [(1, 1, 3), (1, 7, 3), (5, 1, 1), (2, 2, 1), (8, 8, 3), (16, 16, 3), (16, 13, 1)]:
        y, x = np.mgrid[:height, :width]
        smooth = (9 * y + 5 * x)[:, :, None] + np.arange(channels) * 20 + rng.integers(0, 6, (height, width, channels))
        array = smooth.astype(np.uint8) if channels == 3 else smooth.astype(np.uint8)[:, :, 0]
        for options in ({}, {"learn": False, "steps": 3}):
            data = ardmzip.compress(array, device="cpu", **options)
            found.append(Seed(f"{width}x{height}x{channels}", data, pixels(Image.fromarray(array))))
    for name, array in {"black": np.zeros((4, 12), np.uint8), "flat": np.full((6, 4, 3), 255, np.uint8)}.items():
        data = ardmzip.compress(array, device="cpu")
        found.append(Seed(name, data, pixels(Image.fromarray(array))))
    return found


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


@dataclass
class Parts:
    """A file taken apart, so that a single field can be changed."""

    flags: int
    width: int
    height: int
    model: bytes
    chunks: list[tuple[int, bytes]]
    pixel_crc: int

    def join(self) -> bytes:
        body = b"\x9aARD\x01" + bytes([self.flags]) + varint(self.width) + varint(self.height) + self.model
        for kind, payload in self.chunks:
            body += bytes([kind]) + varint(len(payload)) + payload
        return checked(body + b"\0" + self.pixel_crc.to_bytes(4, "little"))


def varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def checked(body: bytes) -> bytes:
    return body + zlib.crc32(body).to_bytes(4, "little")


def take_apart(data: bytes) -> Parts:
    """The parts of a good file."""
    at = 6

    def number() -> int:
        nonlocal at
        value = shift = 0
        while True:
            value, shift, at = value | (data[at] & 0x7F) << shift, shift + 7, at + 1
            if data[at - 1] < 0x80:
                return value

    width, height = number(), number()
    model = data[at : at + 4]
    at += 4
    chunks = []
    while kind := data[at]:
        at += 1
        length = number()
        chunks.append((kind, data[at : at + length]))
        at += length
    return Parts(data[5], width, height, model, chunks, int.from_bytes(data[at + 1 : at + 5], "little"))


def change_size(p: Parts, rng: random.Random) -> None:
    near = p.width, p.height, p.width + 1, p.height - 1
    other = rng.choice((1, 2, *near, rng.randint(1, 300), 2 ** rng.randrange(36)))
    if rng.random() < 0.2:
        p.width, p.height = p.height, p.width
    elif rng.random() < 0.5:
        p.width = max(0, other)
    else:
        p.height = max(0, other)


def change_flags(p: Parts, rng: random.Random) -> None:
    p.flags ^= 1 << rng.randrange(8)


def change_model(p: Parts, rng: random.Random) -> None:
    p.model = flip(p.model, rng)


def change_pixel_crc(p: Parts, rng: random.Random) -> None:
    p.pixel_crc ^= rng.choice((1 << rng.randrange(32), rng.randrange(1, 2**32)))


def change_payload(p: Parts, rng: random.Random) -> None:
    index = rng.randrange(len(p.chunks))
    kind, payload = p.chunks[index]
    p.chunks[index] = kind, rng.choice(BYTES)(payload, rng) if payload else rng.randbytes(rng.randint(1, 8))


def change_words(p: Parts, rng: random.Random) -> None:
    """Whole words of a stream, so that its length stays a multiple of four."""
    index = rng.choice([i for i, (kind, _) in enumerate(p.chunks) if kind == 0x83])
    words = list(np.frombuffer(p.chunks[index][1], "<u4").tolist())
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
    p.chunks[index] = 0x83, np.array(words, "<u4").tobytes()


def change_chunks(p: Parts, rng: random.Random) -> None:
    index, action = rng.randrange(len(p.chunks)), rng.randrange(6)
    if action == 0:
        del p.chunks[index]
    elif action == 1:
        p.chunks.insert(rng.randrange(len(p.chunks) + 1), p.chunks[index])
    elif action == 2:
        rng.shuffle(p.chunks)
    elif action == 3:  # of any kind, often one that is known
        kind = rng.choice((0x81, 0x82, 0x83, 0x87, 0x84, 0x05, 0x86, rng.randrange(1, 256)))
        p.chunks.insert(rng.randrange(len(p.chunks) + 1), (kind, rng.randbytes(rng.choice((0, 1, 2, 4, 24, 300)))))
    elif action == 4:
        p.chunks[index] = rng.randrange(1, 256), p.chunks[index][1]
    else:  # a stream in two
        kind, payload = p.chunks[index]
        cut = rng.randrange(len(payload) // 4 + 1) * 4
        p.chunks[index : index + 1] = [(kind, payload[:cut]), (kind, payload[cut:])]


FIELDS = (change_size, change_flags, change_model, change_pixel_crc, change_payload, change_words, change_chunks)


def cross(p: Parts, q: Parts, rng: random.Random) -> None:
    """A field of another file."""
    what = rng.choice(("flags", "size", "model", "chunks", "chunk", "pixel_crc"))
    if what == "size":
        p.width, p.height = q.width, q.height
    elif what == "chunk":
        p.chunks[rng.randrange(len(p.chunks))] = rng.choice(q.chunks)
    else:
        setattr(p, what, getattr(q, what))


# Running


def mutant(known: Sequence[Seed], seed: int, number: int) -> Mutant:
    """Mutant ``number`` of a seed; it differs from all good files."""
    rng = random.Random(f"{seed} {number}")
    deep = rng.random() < DEEP
    small = [one for one in known if one.area <= SMALL_PIXELS]
    pool = small if deep and rng.random() >= LARGE else known
    while True:
        first, second = rng.choice(pool), rng.choice(pool)
        parents: tuple[Pixels, ...] = (first.pixels,)
        if not deep or rng.random() < 0.3:
            how = rng.choice((*BYTES, splice)).__name__
            if how == "splice":
                data, parents = splice(first.data, second.data, rng), (first.pixels, second.pixels)
            else:
                data = globals()[how](first.data, rng)
            if deep:
                data = checked(data[:-4])
        else:
            parts = take_apart(first.data)
            how = rng.choice((*FIELDS, cross)).__name__
            if how == "cross":
                cross(parts, take_apart(second.data), rng)
                parents = (first.pixels, second.pixels)
            else:
                for _ in range(rng.choice((1, 1, 1, 2))):
                    if parts.chunks:
                        globals()[how](parts, rng)
            data = parts.join()
        if all(data != one.data for one in known):
            return Mutant(data, deep, how, parents)


def outcome(m: Mutant, decompress: Decompress) -> str:
    """What came of decoding; anything but GOOD is a failure."""
    try:
        image = decompress(m.data)
    except (FormatError, ModelError) as error:
        text = str(error)
        if not text or "\n" in text or len(text) > 300:
            return f"not one clear line: {text!r}"
        return type(error).__name__
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        return f"{type(error).__name__}: {error}"
    mode, size, raster = pixels(image)
    if (mode, size, raster) in m.pixels:
        return EXACT
    return RESHAPED if m.deep and (mode, raster) in [(one[0], one[2]) for one in m.pixels] else "wrong pixels"


class TooSlow(BaseException):
    """Not an Exception, so that nothing takes it for its own."""


def limited(decompress: Decompress) -> Decompress:
    """With a limit of time, where the system has alarms."""
    if not hasattr(signal, "setitimer"):
        return decompress

    def alarm(_number: int, _frame: object) -> None:
        raise TooSlow(f"more than {SECONDS} s")

    def work(data: bytes) -> Image.Image:
        signal.setitimer(signal.ITIMER_REAL, SECONDS)
        try:
            return decompress(data)
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
    most = max(one.area for one in known)

    def decompress(data: bytes) -> Image.Image:
        return ardmzip.decompress(data, device="cpu", max_pixels=most)

    for one in known:  # compiles the kernels, and shows that the seeds are good
        if pixels(decompress(one.data)) != one.pixels:
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
            print(f"mutant {number} ({m.how}, {'deep' if m.deep else 'shallow'}, {len(m.data)} bytes): {what}")
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
