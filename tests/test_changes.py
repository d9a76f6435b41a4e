"""Changes of a model: their coding, what they do, and files that carry them."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import plain_decoder
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import ardmzip
from ardmzip import changes, codec, efforts, learning, network, raster
from ardmzip.changes import PACE_MAX, STEP_MAX, Changes
from ardmzip.container import Container, pack, unpack
from ardmzip.contexts import FIXED, block_tables
from ardmzip.efforts import Effort
from ardmzip.errors import FormatError, OptionError
from ardmzip.fitting import fit as fitting
from ardmzip.fitting.backward import Trunk
from ardmzip.fitting.fit import Budget, fit
from ardmzip.fitting.samples import collect
from ardmzip.fitting.side import fit_side
from ardmzip.image import to_planes
from ardmzip.learning import HALVES_MAX


def picture(height: int, width: int, channels: int = 3, seed: int = 0) -> np.ndarray:
    """uint8 [height, width, channels]: waves and grain, the same in all channels but for G, which is their negative: a
    model for photographs expects nothing of that kind."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    waves = 120 + 50 * np.sin(x / 5 + seed) * np.cos(y / 7) + rng.normal(0, 4, (height, width))
    samples = np.repeat(waves.clip(0, 255)[:, :, None].astype(np.uint8), channels, 2)
    samples[:, :, 1:2] = 255 - samples[:, :, 1:2]
    return samples


def random_changes(model, rng: np.random.Generator, share: float, spread: float, pace: int = 16) -> Changes:
    """Steps of a share of the layers, of some spread."""
    steps = {
        name: np.clip(np.rint(rng.laplace(0, spread, outputs)), -STEP_MAX, STEP_MAX).astype(np.int8)
        for name, outputs in changes.layers(model).items()
        if rng.random() < share
    }
    return Changes({name: array for name, array in steps.items() if array.any()}, pace)


def same(one: Changes, two: Changes) -> bool:
    return (
        one.pace == two.pace
        and one.steps.keys() == two.steps.keys()
        and all(np.array_equal(one.steps[name], two.steps[name]) for name in one.steps)
    )


# Coding


@settings(max_examples=20)
@given(st.integers(0, 99), st.floats(0, 1), st.floats(0.05, 30), st.integers(1, PACE_MAX))
def test_coding_is_its_own_inverse(photo, seed, share, spread, pace):
    made = random_changes(photo, np.random.default_rng(seed), share, spread, pace)
    data = changes.pack(made, photo)
    assert same(changes.unpack(data, photo), made)
    assert changes.pack(made, photo) == data


def test_no_changes_take_next_to_nothing(photo):
    assert len(changes.pack(Changes(), photo)) <= 1 + 4 * 3  # a bit for each of 54 layers


def test_frequencies():
    for ratio in changes.RATIOS:
        row = changes.step_frequencies(ratio)
        assert sum(row) == 1 << 24
        assert row == row[::-1] or max(abs(a - b) for a, b in zip(row, row[::-1], strict=True)) <= 2
        assert all(a >= b - 1 for a, b in itertools.pairwise(row[STEP_MAX:]))  # each is rounded
        assert min(row) >= 1


@pytest.mark.parametrize("spread", [0.2, 0.5, 2.0, 5.0])
def test_steps_cost_about_their_entropy(photo, spread):
    made = random_changes(photo, np.random.default_rng(1), 1.0, spread)
    counts = np.unique(np.concatenate(list(made.steps.values())), return_counts=True)[1]
    entropy = -(counts * np.log2(counts / counts.sum())).sum()
    assert 8 * len(changes.pack(made, photo)) < 1.05 * entropy + 54 * 8 + 64


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: b"\0" + data[1:],
        lambda data: data[:-1],
        lambda data: data[:-4],
        lambda data: data + bytes(4),
        lambda data: data + b"\1\0\0\0",
        lambda data: data[:1],
        lambda data: data[:5] + bytes([data[5] ^ 1]) + data[6:],
    ],
)
def test_damaged_changes(photo, damage):
    made = random_changes(photo, np.random.default_rng(2), 0.5, 1.0)
    data = damage(changes.pack(made, photo))
    try:
        found = changes.unpack(data, photo)
    except FormatError:
        return
    assert not same(found, made)


@settings(max_examples=30)
@given(st.binary(max_size=80))
def test_any_bytes_are_changes_or_an_error(photo, data):
    try:
        found = changes.unpack(data, photo)
    except FormatError:
        return
    assert changes.unpack(changes.pack(found, photo), photo).pace == found.pace


# What they do


def test_changes_leave_the_model_alone(photo):
    before = {name: array.copy() for name, array in photo.tensors.items()}
    made = random_changes(photo, np.random.default_rng(3), 0.5, 2.0, 40)
    changed = changes.apply(made, photo)
    assert changed.id == photo.id
    assert all(np.array_equal(before[name], array) for name, array in photo.tensors.items())
    moved = {name for name, array in changed.tensors.items() if not np.array_equal(before[name], array)}
    rates = {name for name in before if name.endswith(".rate")}
    assert moved == {f"expert.{name}.bias" for name in made.steps} | rates
    assert same_tensors(plain_decoder.changed(changes.pack(made, photo), photo.tensors), changed.tensors)


def same_tensors(one: dict[str, np.ndarray], two: dict[str, np.ndarray]) -> bool:
    return one.keys() == two.keys() and all(np.array_equal(one[name], two[name]) for name in one)


def test_a_step_is_four_units_of_the_output(photo, cpu):
    x = torch.from_numpy(np.random.default_rng(4).integers(-60, 61, (500, 96)).astype(np.int8))
    expert = photo.on(torch.device("cpu"))[0][0]
    trunk = Trunk(replace(expert, layers=expert.layers[:1]), cpu)
    before = trunk.forward(x)[0].int()
    trunk.biases[0] = (trunk.biases[0] + changes.bias_unit(expert.layers[0].shift.numpy())).astype(np.int32)
    after = trunk.forward(x)[0].int()
    inside = (before > 0) & (after < 127)
    assert inside.any()
    assert (after - before)[inside].unique().tolist() == [4]


def test_sums_that_leave_32_bits_are_refused(photo):
    tensors = dict(photo.tensors) | {"expert.3.1.shift": np.full(256, 31, np.int32)}
    made = Changes({"3.1": np.full(256, 1, np.int8)})
    with pytest.raises(FormatError, match=r"damaged changes: the sums of expert\.3\.1 leave 32 bits"):
        changes.apply(made, replace(photo, tensors=tensors))


# Files


def container(samples: np.ndarray, model, backend, made: Changes) -> Container:
    """A file with changes, whether they help or not."""
    planes = to_planes(samples)
    coded = codec.encode(planes, changes.apply(made, model), backend)
    return replace(coded, changes=changes.pack(made, model), saved=7)


@pytest.fixture(scope="module")
def changed_file(photo) -> tuple[np.ndarray, bytes]:
    samples = picture(40, 44)
    made = random_changes(photo, np.random.default_rng(5), 0.6, 1.0, 30)
    return samples, pack(container(samples, photo, network.backend("cpu", "float64", False), made))


@pytest.mark.parametrize(
    ("product", "numba"), [("int8", True), ("float32", True), ("float64", True), ("int8", False), ("float32", False)]
)
def test_back_ends(changed_file, photo, product, numba):
    samples, file = changed_file
    backend = network.backend("cpu", product, numba)
    found = unpack(file)
    made = changes.unpack(found.changes or b"", photo)
    assert pack(container(samples, photo, backend, made)) == file
    before = torch.get_num_threads()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            np.testing.assert_array_equal(raster.decode(found, lambda: (photo, backend)), samples)
    finally:
        torch.set_num_threads(before)
    assert found.saved == 7


@pytest.mark.parametrize("channels", [1, 3])
def test_a_decoder_written_from_the_format(photo, cpu, channels):
    samples = picture(20, 17, channels)
    file = container(samples, photo, cpu, random_changes(photo, np.random.default_rng(6), 0.8, 1.0, 50))
    planes = plain_decoder.decode(unpack(pack(file)), photo.tensors)
    np.testing.assert_array_equal(planes, to_planes(samples))


def test_other_changes_are_noticed(changed_file, photo, cpu):
    """One step, the pace, or none of it: the pixels would be wrong, and are not handed out."""
    samples, file = changed_file
    right = unpack(file)
    made = changes.unpack(right.changes or b"", photo)
    name = next(name for name in made.steps if name.startswith("6."))
    other = made.steps[name].copy()
    other[other.argmax()] -= 1
    altered = [
        replace(right, changes=changes.pack(Changes(dict(made.steps) | {name: other}, made.pace), photo)),
        replace(right, changes=changes.pack(Changes(made.steps, made.pace + 1), photo)),
        replace(right, changes=None),
    ]
    for wrong in altered:
        with pytest.raises(FormatError):
            raster.decode(unpack(pack(wrong)), lambda: (photo, cpu))
    np.testing.assert_array_equal(raster.decode(unpack(pack(right)), lambda: (photo, cpu)), samples)


def test_damaged_files(changed_file):
    _, file = changed_file
    place = file.index(unpack(file).changes or b"")
    for at in range(place - 4, place + 20, 3):
        with pytest.raises(FormatError, match="damaged"):
            ardmzip.decompress(file[:at] + bytes([file[at] ^ 4]) + file[at + 1 :])
        with pytest.raises(FormatError, match="damaged"):
            ardmzip.decompress(file[:at])


def test_changes_need_a_model(changed_file):
    stored = unpack(ardmzip.compress(np.zeros((20, 20, 3), np.uint8)))
    assert not stored.uses_model
    with pytest.raises(ValueError, match="uses no model"):
        pack(replace(stored, changes=b"\x10"))


# Fitting


@pytest.fixture
def small_samples(monkeypatch):
    """Small images are worth fitting to, too."""
    monkeypatch.setattr(fitting, "MIN_SAMPLES", 256)
    monkeypatch.setattr(fitting, "BATCH", 128)


@pytest.mark.parametrize("product", ["int8", "float64"])
def test_backward_is_the_gradient(photo, product):
    """Against the same sums in float64, whose rounding to 15 bits before each layer is left out."""
    rng = np.random.default_rng(7)
    expert = photo.on(torch.device("cpu"))[0][4]
    trunk = Trunk(expert, network.backend("cpu", product))
    x = torch.from_numpy(rng.integers(-60, 61, (64, expert.layers[0].weight.shape[1])).astype(np.int8))
    outputs = trunk.forward(x)
    slopes = rng.integers(-(2**20), 2**20, outputs[-1].shape).astype(np.float64)
    wanted, through = [], slopes.copy()
    for i in reversed(range(len(expert.layers))):
        h = outputs[i].numpy()
        through = np.where((h > 0) & (h < 127), through, 0.0)
        wanted.append(through.sum(0))
        layer = expert.layers[i]
        through = (through * 2.0 ** -layer.shift.numpy()) @ layer.weight.numpy().astype(np.float64)
    for found, right in zip(trunk.backward(slopes, outputs), wanted[::-1], strict=True):
        assert np.abs(found - right).max() <= 64 * np.abs(right).max() / HALVES_MAX
        assert np.abs(right).max() > 0


def test_samples_are_coded_as_the_codec_does_it(photo, cpu):
    """The finest level of an image, whose experts see nothing else: the same bits."""
    planes = to_planes(picture(60, 72))
    gains: list[learning.Gain] = []
    codec.encode(planes, photo, cpu, gains=gains)
    samples = collect([planes], photo, cpu, 10**6)
    found = 0.0
    for expert in range(9):
        assert len(samples[expert]) == samples[expert].pixels == 30 * 36
        coding = fitting.Coding(photo, cpu, expert, samples[expert])
        found += sum(bits for bits, _, _ in coding.run(30 * 36))
    assert found == pytest.approx(sum(gain.learned for gain in gains if gain.level == 0), rel=1e-9)


def test_samples_of_several_images(photo, cpu):
    """Their blocks are other contexts, and a limit takes the same share of each."""
    images = [to_planes(picture(40, 44)), to_planes(picture(64, 100, 1))]
    whole, few = collect(images, photo, cpu, 10**6), collect(images, photo, cpu, 500)
    blocks = [int(block_tables(height, width)[-1, 2]) for height, width in ((40, 44), (64, 100))]
    assert whole[0].context_count == sum(blocks)
    assert whole[0].contexts[:440, FIXED:].max() < blocks[0] <= whole[0].contexts[440:, FIXED:].min()
    assert len(whole[0]) == 440 + 1600
    assert len(whole[1]) == 440
    assert len(few[0]) == int(440 * 500 / 2040) + int(1600 * 500 / 2040)
    assert few[0].pixels == 2040


@pytest.mark.usefixtures("small_samples")
def test_fitting_makes_images_smaller(photo, cpu):
    """Of a set of images, with and without the bytes of the changes; and the same everywhere."""
    images = [to_planes(picture(64, 64, seed=seed)) for seed in range(2)]
    made = fit(images, photo, Budget(3000, 2), threads=1)
    assert made.steps
    changed = changes.apply(made, photo)
    sizes = [sum(len(pack(codec.encode(planes, model, cpu))) for planes in images) for model in (photo, changed)]
    assert sizes[1] < sizes[0]
    assert same(fit(images, photo, Budget(3000, 2), threads=2), made)


@pytest.mark.usefixtures("small_samples")
def test_efforts(photo, monkeypatch):
    """What pays is kept, never more bytes than without; the file decodes, and says what it has saved."""
    monkeypatch.setattr(efforts, "EFFORTS", (Effort(), Effort(64, 0, 0, (32,), 1500, 2)))
    monkeypatch.setattr(efforts, "MOST", 1)
    samples = picture(96, 100)
    plain, fitted = (ardmzip.compress(samples, effort=effort, model="photo") for effort in (0, 1))
    assert len(fitted) < len(plain)
    found = unpack(fitted)
    assert found.changes is not None
    assert abs(len(plain) - found.saved + len(found.changes) - len(fitted)) <= 12  # the head of a chunk
    np.testing.assert_array_equal(ardmzip.decompress_array(fitted), samples)


def test_side_information_is_fitted(photo, cpu, monkeypatch):
    """It makes the file smaller, is the same on any number of threads, and no image gets it that carries none."""
    samples = picture(96, 100)
    planes = to_planes(samples)
    side = fit_side([planes], photo, 500, 4, phase=(0, 0), threads=1)
    assert side is not None
    assert side.dtype == np.int8
    np.testing.assert_array_equal(fit_side([planes], photo, 500, 4, phase=(0, 0), threads=2), side)
    assert fit_side([planes, planes[:, :50]], photo, 500, 4, phase=(0, 0)) is None
    measured, fitted = (codec.encode(planes, photo, cpu, phase=(0, 0), side=given) for given in (None, side))
    assert len(pack(fitted)) < len(pack(measured))
    assert fitted.side_info == side.tobytes() != measured.side_info
    monkeypatch.setattr(efforts, "EFFORTS", (Effort(), Effort(0, 500, 4)))
    monkeypatch.setattr(efforts, "MOST", 1)
    file = ardmzip.compress(samples, effort=1, model="photo")
    assert unpack(file).side_info == side.tobytes()
    np.testing.assert_array_equal(ardmzip.decompress_array(file), samples)


@pytest.mark.usefixtures("small_samples")
def test_nothing_is_sent_where_nothing_pays(monkeypatch):
    monkeypatch.setattr(efforts, "EFFORTS", (Effort(), Effort(64, 128, 2, (32,), 4000, 1)))
    monkeypatch.setattr(efforts, "MOST", 1)
    noise = np.random.default_rng(8).integers(0, 256, (48, 48, 3), np.uint8)
    assert ardmzip.compress(noise, effort=1, model="photo") == ardmzip.compress(noise, effort=0, model="photo")
    flat = np.zeros((70, 70, 3), np.uint8)
    assert ardmzip.compress(flat, effort=1) == ardmzip.compress(flat, effort=0)


@pytest.mark.usefixtures("small_samples")
def test_tiles_share_the_changes(monkeypatch):
    monkeypatch.setattr(efforts, "EFFORTS", (Effort(), Effort(64, 128, 2, (32,), 1000, 2)))
    monkeypatch.setattr(efforts, "MOST", 1)
    samples = picture(100, 128)
    file = ardmzip.compress(samples, effort=1, model="photo", tile=64)
    found = unpack(file)
    assert found.changes is not None
    assert len(found.tiles) == 4
    np.testing.assert_array_equal(ardmzip.decompress_array(file, region=(70, 3, 20, 30)), samples[3:33, 70:90])


def test_small_images_are_left_alone(monkeypatch):
    """By the default and what is below it."""
    assert all(efforts.EFFORTS[number].least >= 1 << 16 for number in range(1, efforts.DEFAULT + 1))
    samples = picture(96, 100)
    monkeypatch.setattr(efforts, "EFFORTS", (Effort(), Effort(64, 500, 4, least=9600), Effort(64, 500, 4, least=9601)))
    monkeypatch.setattr(efforts, "MOST", 2)
    files = [ardmzip.compress(samples, effort=effort, model="photo") for effort in range(3)]
    assert files[0] == files[2]
    assert len(files[1]) < len(files[0])


def test_wrong_efforts():
    with pytest.raises(OptionError, match="effort must be 0 to 9, not 10"):
        ardmzip.compress(np.zeros((4, 4), np.uint8), effort=10)
    assert efforts.EFFORTS[0] == Effort()


@pytest.mark.usefixtures("small_samples")
@pytest.mark.parametrize("kind", ["alpha", "16 bits", "palette"])
def test_efforts_of_other_formats(monkeypatch, kind):
    """The changes are those of all bodies; palettes and what general coders store are left alone."""
    monkeypatch.setattr(efforts, "EFFORTS", (Effort(), Effort(64, 128, 2, (32,), 1000, 1)))
    monkeypatch.setattr(efforts, "MOST", 1)
    samples: np.ndarray | Image.Image = picture(64, 80, 3)
    if kind == "alpha":
        samples = np.concatenate([picture(64, 80, 3), picture(64, 80, 1, 1)], 2)
    elif kind == "16 bits":
        samples = picture(64, 80, 1)[:, :, 0].astype(np.uint16) * 257 + 3
    else:
        samples = Image.fromarray(picture(64, 80, 3)).quantize(16)
    files = [ardmzip.compress(samples, effort=effort) for effort in (0, 1)]
    assert len(files[1]) <= len(files[0])
    restored = ardmzip.decompress_array(files[1])
    np.testing.assert_array_equal(restored, np.asarray(samples))
