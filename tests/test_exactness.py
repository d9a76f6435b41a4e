"""The same bytes whatever computes them, and the files of tests/golden, which must decode for ever."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file

import ardmzip
from ardmzip import codec, model, network
from ardmzip.container import pack, unpack

ROOT = Path(ardmzip.__file__).parent.parent
GOLDEN = Path(__file__).parent / "golden"
VARIANTS = [(product, numba) for product in network.PRODUCTS for numba in (True, False)]
CHUNKS = (1000, 8192, 77)
no_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


def picture(channels: int) -> np.ndarray:
    """uint8 [channels, 64, 150]: large enough for side information, several threads and several chunks."""
    rng = np.random.default_rng(channels)
    y, x = np.mgrid[:64, :150]
    waves = [np.sin(y / (7 + 3 * c) + c) + np.cos(x / (11 + 2 * c) - c) for c in range(channels)]
    return np.clip(128 + 60 * np.stack(waves) + rng.normal(0, 3, (channels, 64, 150)), 0, 255).astype(np.uint8)


def encode(planes, backend, chunk=codec.CHUNK, steps=None) -> bytes:
    return pack(codec.encode(planes, model.load("photo"), backend, steps, chunk=chunk))


@pytest.fixture(scope="module")
def files() -> list[tuple[np.ndarray, int | None, bytes]]:
    """(planes, steps, file) as the slow reference makes them: float64 products and torch operations."""
    reference = network.backend("cpu", "float64", False)
    cases = [(picture(3), None), (picture(1), 9), (picture(3)[:, :13, :9], 4)]
    return [(planes, steps, encode(planes, reference, steps=steps)) for planes, steps in cases]


@pytest.mark.parametrize(("product", "numba"), VARIANTS)
def test_back_ends_and_chunks(files, product, numba):
    backend = network.backend("cpu", product, numba)
    for (planes, steps, file), chunk in itertools.product(files, CHUNKS):
        assert encode(planes, backend, chunk, steps) == file
    for planes, _, file in files:
        np.testing.assert_array_equal(codec.decode(unpack(file), model.load("photo"), backend, chunk=500), planes)


@no_cuda
@pytest.mark.parametrize("product", network.PRODUCTS)
def test_cuda(files, product):
    backend = network.backend("cuda", product)
    for (planes, steps, file), chunk in itertools.product(files, CHUNKS):
        assert encode(planes, backend, chunk, steps) == file
    for planes, _, file in files:
        np.testing.assert_array_equal(codec.decode(unpack(file), model.load("photo"), backend), planes)


def digests() -> dict[str, str]:
    """What the subprocesses below print: the hash of the file of each variant, and the threads that made it."""
    out = {"threads": str(torch.get_num_threads())}
    for product, numba in VARIANTS:
        backend = network.backend("cpu", product, numba)
        for chunk in CHUNKS if numba else CHUNKS[:1]:
            file = encode(picture(3), backend, chunk)
            out[f"{backend.name} {chunk}"] = hashlib.sha256(file).hexdigest()
        if numba:
            np.testing.assert_array_equal(codec.decode(unpack(file), model.load("photo"), backend), picture(3))
    return out


def test_threads(files):
    """1 and 2 threads, in processes of their own because a process cannot change its mind."""
    program = "import json, test_exactness; print(json.dumps(test_exactness.digests()))"
    want = hashlib.sha256(files[0][2]).hexdigest()
    for threads in ("1", "2"):
        environment = {
            **os.environ, "OMP_NUM_THREADS": threads, "NUMBA_NUM_THREADS": threads, "MKL_NUM_THREADS": threads,
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(Path(__file__).parent)]),
        }  # fmt: skip
        done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout)
        assert found.pop("threads") == threads
        assert len(found) == 12
        assert set(found.values()) == {want}


# A decoder written from docs/FORMAT.md, in plain Python and with none of the codec's code except for the container.


class PlainStream:
    """A rANS stream: "Streams"."""

    def __init__(self, words):
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


def plain_inputs(q, y, x, l, k, c, side, table) -> tuple[list[int], int, int]:  # noqa: E741
    """Inputs, centre and class of a sub-pixel: "Features". ``q``: {(y, x, channel): value} of the known sub-pixels."""
    places = [(dy, dx) for dy in range(-3, 4) for dx in range(-3, 4)]
    first = ({(1, 1)}, {(0, 1), (1, 0)}, {(1, 0), (0, 1), (1, 1)})[k]
    parts = [
        [p for p in places if (p[0] % 2, p[1] % 2) in first],
        [p for p in places if (p[0] % 2, p[1] % 2) == (0, 0) and p != (0, 0)],
    ]
    weight = {1: 64, 2: 32, 4: 16, 5: 16, 8: 4, 9: 4, 10: 4, 13: 2, 18: 1}

    def value(j, dy, dx):
        if (y + dy, x + dx, j) not in q:
            return None
        return q[y + dy, x + dx, j] - (q[y + dy, x + dx, 0] if j else 0)

    taps, refs, classes, fractions = [], [], [], []
    for j in range(3):
        read = parts[0] + (parts[1] if j < c else [])
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
                taps.append(0)
                continue
            d = 64 * p[i] - ref
            entry = table["compand"][1024 * a + min(abs(d) >> 4, 1023)]
            taps.append(entry if d >= 0 else -entry)
        refs.append(ref)
        classes.append(a)
        fractions.append(32 * total // sum(w))
    scalars = [4 * a - 64 for a in classes]
    scalars += [(refs[0] >> 7) - 64, refs[1] >> 8, refs[2] >> 8, *fractions]
    scalars += [32 * (c > j and value(j, 0, 0) is not None) for j in (0, 1)]
    scalars += [32 * (l >= i) for i in range(1, 7)]
    scalars += [32, *side] if side else [0] * 23
    inputs = taps + scalars
    inputs += [0] * (-len(inputs) % 16)
    return inputs, min(max(refs[c] + (refs[0] if c else 0), 0), 16320), classes[c]


def plain_outputs(x, e, tensors) -> list[int]:
    """The head's outputs: "Network"."""
    x = np.array(x)
    for i in range(sum(name.startswith(f"expert.{e}.") and name.endswith(".shift") for name in tensors)):
        weight, bias, shift = (tensors[f"expert.{e}.{i}.{part}"].astype(int) for part in ("weight", "bias", "shift"))
        x = np.clip((weight @ x + bias) >> shift, 0, 127)
    return ((tensors[f"expert.{e}.head.weight"].astype(int) @ x + tensors[f"expert.{e}.head.bias"] + 64) >> 7).tolist()


def plain_cumulative(y, centre, a, table):
    """The function F: "Mixture and frequencies"."""
    count = len(y) // 3
    logits, means, scales = y[:count], y[count : 2 * count], y[2 * count :]
    e = [table["exp2"][min((max(logits) - logit) >> 2, 1023)] for logit in logits]
    w = [2**14 * part // sum(e) for part in e]
    w[logits.index(max(logits))] += 2**14 - sum(w)
    mu = [
        min(max(centre + ((min(max(mean, -16384), 16384) * table["class_scale"][a]) >> 8), -4096), 20416)
        for mean in means
    ]
    s = [min(max((scale >> 2) + 16 * a + 256, 0), 895) for scale in scales]

    def cumulative(x):
        if x in (0, 256):
            return x << 16
        g = 0
        for k in range(count):
            z = (((64 * x - 32 - mu[k]) * table["inv_mantissa"][s[k]]) >> table["inv_shift"][s[k]]) + 2048
            g += w[k] * table["logistic"][min(max(z, 0), 4095)]
        g >>= 6
        return g - (g >> 12) + 16 * x

    return cumulative


def plain_decode(container, tensors) -> np.ndarray:
    """uint8 [channels, height, width]; images of one stream and no batch of more than 65,536 pixels."""
    table = {name.split(".")[1]: array.tolist() for name, array in tensors.items() if name.startswith("table.")}
    side = [byte - 256 if byte > 127 else byte for byte in container.side_info]
    height, width, (py, px) = container.height, container.width, container.phase
    levels = 0
    if height * width > 1:
        levels = max(1, int(np.ceil(np.log2(max(height - py, width - px)))))
    (words,) = container.segments
    stream = PlainStream(words)
    flat = [s << 20 for s in range(17)]
    channels = range(container.channels)
    high = [stream.symbol(flat) for _ in channels]
    known = {(py, px, c): 16 * high[c] + stream.symbol(flat) for c in channels}  # (y, x, channel) in the image

    atoms = [(l, k, c) for l in reversed(range(levels)) for k in range(3) for c in channels]  # noqa: E741
    starts = list(container.calls) if container.calls is not None else list(range(len(atoms)))
    for start, end in itertools.pairwise([*starts, len(atoms)]):
        decoded = {}
        for l, k, c in atoms[start:end]:  # noqa: E741
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
            mixtures = []
            for y, x in places:
                inputs, centre, a = plain_inputs(q, y, x, l, k, c, side, table)
                outputs = plain_outputs(inputs, (min(l, 1) * 3 + k) * 3 + c, tensors)
                mixtures.append(plain_cumulative(outputs, centre, a, table))
            high = [stream.symbol([f(16 * h) for h in range(17)]) for f in mixtures]
            for (y, x), h, f in zip(places, high, mixtures, strict=True):
                bounds = [f(16 * h + i) - f(16 * h) for i in range(17)]
                low = stream.symbol([b * (2**24 - 16) // bounds[16] + i for i, b in enumerate(bounds)])
                decoded[oy + step * y, ox + step * x, c] = 16 * h + low
        known |= decoded
    assert stream.state == 0
    assert not stream.words
    planes = np.zeros((container.channels, height, width), np.uint8)
    for (y, x, c), value in known.items():
        planes[c, y, x] = value
    return planes


def planes_of(container) -> tuple[int, int, int]:
    return container.channels, container.height, container.width


@pytest.fixture(scope="module")
def tensors():
    """The model's integers, read without the codec's code."""
    arrays = load_file(model.available()["photo"])
    return {name.removeprefix("int."): array for name, array in arrays.items() if name.startswith("int.")}


@pytest.mark.parametrize(
    ("shape", "steps"), [((3, 1, 1), None), ((3, 9, 14), None), ((1, 17, 11), 5), ((3, 12, 7), 3), ((3, 1, 9), None)]
)
def test_a_decoder_written_from_the_format(tensors, cpu, shape, steps):
    channels, height, width = shape
    planes = picture(3)[:channels, 5 : 5 + height, 40 : 40 + width]
    container = unpack(encode(planes, cpu, steps=steps))
    assert planes_of(container) == shape
    np.testing.assert_array_equal(plain_decode(container, tensors), planes)


@pytest.mark.parametrize("phase", [(1, 0), (0, 1), (1, 1)])
def test_phases_and_side_information_of_the_format(tensors, photo, cpu, phase):
    """ardmzip does not write these yet, or only for larger images, but the format has them and it reads them."""
    planes = picture(3)[:, :7, :10]
    order = codec.LatticeOrder(7, 10, 3, phase)
    side = np.arange(-90, 109, 9, dtype=np.int8)[:22]
    coder = codec.EncodingCoder(planes, order)
    calls = (0, 5, 6, 20)
    with codec.Predictor(photo, cpu, side) as predictor:
        codec.walk(order, calls, predictor, coder)
    container = codec.Container(
        10, 7, 3, phase, photo.id, side.tobytes(), calls, coder.encoder.finish(), codec.pixel_checksum(planes)
    )
    container = unpack(pack(container))
    np.testing.assert_array_equal(codec.decode(container, photo, cpu), planes)
    np.testing.assert_array_equal(plain_decode(container, tensors), planes)


def test_model_id_of_the_format(tensors):
    text = {"int8": "i1", "uint8": "u1", "int16": "i2", "int32": "i4"}
    digest = hashlib.sha256()
    for name in sorted(tensors):
        array = tensors[name]
        digest.update(f"{name} {text[str(array.dtype)]} {array.shape}\n".encode())
        digest.update(array.astype(array.dtype.newbyteorder("<")).tobytes())
    assert digest.digest()[:4] == model.load("photo").id


def test_golden_files_are_there():
    files = sorted(path.name for path in GOLDEN.glob("*.ardm"))
    assert len(files) >= 5, "tests/golden is empty: run python -m tests.make_golden once, with the final model"
    assert files == sorted(path.with_suffix(".ardm").name for path in GOLDEN.glob("*.png"))


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("*.ardm")), ids=lambda path: path.stem)
def test_golden(path):
    restored = ardmzip.decompress(path.read_bytes())
    with Image.open(path.with_suffix(".png")) as image:
        assert restored.mode == image.mode
        np.testing.assert_array_equal(np.asarray(restored), np.asarray(image))
