"""The same bytes whatever computes them, and the files of tests/golden, which must decode for ever."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import subprocess
import sys
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import plain_decoder
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file

import ardmzip
from ardmzip import changes, codec, model, network, order
from ardmzip.container import pack, unpack
from ardmzip.errors import FormatError
from ardmzip.image import to_planes
from ardmzip.predictor import CHUNK, Predictor

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


def encode(planes, backend, chunk=CHUNK, **options) -> bytes:
    return pack(codec.encode(planes, model.load("photo"), backend, chunk=chunk, **options))


@pytest.fixture(scope="module")
def files() -> list[tuple[np.ndarray, dict, bytes]]:
    """(planes, options, file) as the slow reference makes them: float64 products and torch operations."""
    reference = network.backend("cpu", "float64", False)
    cases: list[tuple[np.ndarray, dict]] = [
        (picture(3), {}),
        (picture(1), {"steps": 9}),
        (picture(3)[:, :13, :9], {"steps": 4}),
        (picture(3)[:, :, :144], {"learn": False}),
    ]
    return [(planes, options, encode(planes, reference, **options)) for planes, options in cases]


@pytest.mark.parametrize(("product", "numba"), VARIANTS)
def test_back_ends_and_chunks(files, product, numba):
    backend = network.backend("cpu", product, numba)
    for (planes, options, file), chunk in itertools.product(files, CHUNKS):
        assert encode(planes, backend, chunk, **options) == file
    for planes, _, file in files:
        np.testing.assert_array_equal(codec.decode(unpack(file), model.load("photo"), backend, chunk=500), planes)


@no_cuda
@pytest.mark.parametrize("product", network.PRODUCTS)
def test_cuda(files, product):
    backend = network.backend("cuda", product)
    for (planes, options, file), chunk in itertools.product(files, CHUNKS):
        assert encode(planes, backend, chunk, **options) == file
    for planes, _, file in files:
        np.testing.assert_array_equal(codec.decode(unpack(file), model.load("photo"), backend), planes)
    for path in GOLDEN.glob("*.ardm"):
        with Image.open(path.with_suffix(".png")) as image:
            restored = ardmzip.decompress(path.read_bytes(), device="cuda", backend=product)
            np.testing.assert_array_equal(np.asarray(restored), np.asarray(image))


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


def planes_of(container) -> tuple[int, int, int]:
    return container.channels, container.height, container.width


@pytest.fixture(scope="module")
def tensors():
    """The model's integers, read without the codec's code."""
    arrays = load_file(model.available()["photo"])
    return {name.removeprefix("int."): array for name, array in arrays.items() if name.startswith("int.")}


@pytest.mark.parametrize("learn", [True, False])
@pytest.mark.parametrize(
    ("shape", "steps"), [((3, 1, 1), None), ((3, 9, 14), None), ((1, 17, 11), 5), ((3, 17, 15), 3), ((3, 1, 9), None)]
)
def test_a_decoder_written_from_the_format(tensors, cpu, shape, steps, learn):
    channels, height, width = shape
    planes = picture(3)[:channels, 5 : 5 + height, 40 : 40 + width]
    container = unpack(encode(planes, cpu, steps=steps, learn=learn))
    assert planes_of(container) == shape
    assert container.learning == (learn and container.order.sizes().max(initial=0) >= 64)
    np.testing.assert_array_equal(plain_decoder.decode(container, tensors), planes)


@pytest.mark.parametrize("learn", [True, False])
@pytest.mark.parametrize("phase", [(1, 0), (0, 1), (1, 1)])
def test_phases_and_side_information_of_the_format(tensors, photo, cpu, phase, learn):
    """ardmzip does not write these yet, or only for larger images, but the format has them and it reads them."""
    height, width = (16, 17) if learn else (7, 10)  # heads learn from atoms of at least 64 pixels
    planes = picture(3)[:, :height, :width]
    lattice = codec.LatticeOrder(height, width, 3, phase)
    side = np.arange(-90, 109, 9, dtype=np.int8)[:22]
    coder = codec.EncodingCoder(planes, lattice)
    calls = (0, 5, 6, 20)
    ends = (1, 2, 5, 9) if learn else None
    with Predictor(photo, cpu, side) as predictor:
        codec.walk(codec.Plan(lattice, calls, learn, ends), predictor, coder)
    container = codec.Container(
        width, height, 3, phase, photo.id, side.tobytes(), calls, coder.encoder.finish(), codec.pixel_checksum(planes),
        learning=learn, batch_ends=ends,
    )  # fmt: skip
    container = unpack(pack(container))
    np.testing.assert_array_equal(codec.decode(container, photo, cpu), planes)
    np.testing.assert_array_equal(plain_decoder.decode(container, tensors), planes)


@pytest.mark.parametrize("learn", [True, False])
@pytest.mark.parametrize("steps", [None, 5])
def test_streams_and_levels_of_the_format(tensors, photo, cpu, monkeypatch, steps, learn):
    """Cuts and streams as in large images."""
    monkeypatch.setattr(order, "CUT", 40)
    planes = picture(3)[:, :17, :19]
    container = codec.encode(planes, photo, cpu, steps, learn=learn, phase=(0, 1))
    assert container.order.cuts == (1, 0)
    np.testing.assert_array_equal(plain_decoder.decode(container, tensors, least=40), planes)
    for level in (1, 2):
        broken = replace(container, segments=container.segments[: 3 - level])
        found = plain_decoder.decode(broken, tensors, level, least=40)
        np.testing.assert_array_equal(found, planes[:, :: 2**level, 1 :: 2**level])


def test_golden_levels_by_the_format(tensors):
    """Of the large golden file the plain decoder takes the preview, as it is slow."""
    path = GOLDEN / "learn-cuts.ardm"
    container = unpack(path.read_bytes())
    assert container.order.cuts == (0,)
    assert len(container.segments) == 2
    with Image.open(path.with_suffix(".png")) as image:
        pixels = np.asarray(image)[container.phase[0] :: 2, container.phase[1] :: 2]
    planes = plain_decoder.decode(container, tensors, level=1)
    np.testing.assert_array_equal(planes[[1, 0, 2]].transpose(1, 2, 0), pixels)
    assert container.level_crcs == (zlib.crc32(np.ascontiguousarray(pixels)),)
    np.testing.assert_array_equal(np.asarray(ardmzip.decompress(path.read_bytes(), level=1)), pixels)


def test_golden_tiles():
    path = GOLDEN / "learn-tiles.ardm"
    file = path.read_bytes()
    container = unpack(file)
    assert container.tile == (64, 64)
    assert len(container.tiles) == 4
    with Image.open(path.with_suffix(".png")) as image:
        pixels = np.asarray(image)
    assert pixels.shape == (100, 110, 4)
    np.testing.assert_array_equal(np.asarray(ardmzip.decompress(file, region=(60, 50, 30, 50))), pixels[50:, 60:90])
    np.testing.assert_array_equal(np.asarray(ardmzip.decompress(file, level=2)), pixels[::4, ::4])


@pytest.mark.parametrize(("name", "pace"), [("learn-pace", 32), ("learn-changes", 16)])
def test_golden_changes(photo, name, pace):
    """A changed model is as exact as any other: on all back ends and numbers of threads."""
    container = unpack((GOLDEN / f"{name}.ardm").read_bytes())
    made = changes.unpack(container.changes or b"", photo)
    assert container.saved > len(container.changes or b"") > 0
    assert container.learning
    assert made.pace == pace
    assert bool(made.steps) == (name == "learn-changes")
    changed = changes.apply(made, photo)
    with Image.open(GOLDEN / f"{name}.png") as image:
        planes = to_planes(np.asarray(image))
    for product, numba in VARIANTS:
        backend = network.backend("cpu", product, numba)
        for threads in (1, 2, 3) if numba else (2,):
            np.testing.assert_array_equal(codec.decode(container, changed, backend, threads=threads), planes)
    with pytest.raises(FormatError):
        codec.decode(container, photo, network.backend("cpu"))  # not changed


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
    files = [unpack(path.read_bytes()) for path in GOLDEN.glob("*.ardm")]
    containers = [part for file in files for part in (file.tiles or [file])]
    assert {container.learning for container in containers} == {True, False}
    assert any(container.batch_ends for container in containers)
    assert any(container.batch_ends is None for container in containers if container.learning)
    assert any(file.changes for file in files)
    assert any(file.turned for file in files)
    assert {file.short for file in files if file.code} == {True, False}


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("*.ardm")), ids=lambda path: path.stem)
def test_golden(path):
    restored = ardmzip.decompress(path.read_bytes())
    with Image.open(path.with_suffix(".png")) as image:
        assert restored.mode == image.mode
        np.testing.assert_array_equal(np.asarray(restored), np.asarray(image))
