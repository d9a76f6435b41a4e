"""The codec end to end, with the shipped model: round trips of all shapes and contents, and damage."""

import tracemalloc
from contextlib import suppress
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import ardmzip
from ardmzip import codec, mixture, network, order, schedule, sideinfo, streams
from ardmzip.container import pack, unpack
from ardmzip.errors import ArdmError, FormatError, ImageError, ModelError, OptionError
from ardmzip.model import Model, model_id
from ardmzip.order import LatticeOrder
from ardmzip.predictor import Predictor, window_offsets


def content(kind: str, shape: tuple[int, int, int], rng: np.random.Generator) -> np.ndarray:
    channels, height, width = shape
    y, x = np.mgrid[:height, :width]
    if kind == "random":
        planes = rng.integers(0, 256, shape)
    elif kind == "constant":
        planes = np.broadcast_to(rng.choice([0, 1, 128, 254, 255], (channels, 1, 1)), shape)
    elif kind == "extreme":
        planes = 255 * rng.integers(0, 2, shape)
    else:
        slopes = rng.uniform(-6, 6, (channels, 2, 1, 1))
        planes = (rng.integers(0, 256, (channels, 1, 1)) + slopes[:, 0] * y + slopes[:, 1] * x) % 256
        if kind == "noisy gradient":
            planes = (planes + rng.normal(0, 4, shape)).clip(0, 255)
    return np.ascontiguousarray(planes.astype(np.uint8))


@st.composite
def images(draw, longest: int = 40) -> np.ndarray:
    """uint8 [channels, height, width]"""
    shape = draw(st.sampled_from([1, 3])), draw(st.integers(1, longest)), draw(st.integers(1, longest))
    kind = draw(st.sampled_from(["random", "constant", "extreme", "gradient", "noisy gradient"]))
    return content(kind, shape, np.random.default_rng(draw(st.integers(0, 2**32 - 1))))


def round_trip(check_codec, model, backend, planes, steps=None, learn=True) -> bytes:
    return check_codec(
        lambda image: pack(codec.encode(image, model, backend, steps, learn=learn)),
        lambda file: codec.decode(unpack(file), model, backend),
        planes,
    )


@settings(max_examples=40)
@given(images(), st.booleans())
def test_round_trip(check_codec, photo, cpu, planes, learn):
    container = unpack(round_trip(check_codec, photo, cpu, planes, learn=learn))
    assert container.learning == (learn and container.order.sizes().max(initial=0) >= 64)
    assert container.batch_ends is None
    assert (container.channels, container.height, container.width) == planes.shape
    assert photo.id.startswith(container.model_id)
    assert container.calls is None
    assert container.side_info == b""
    assert len(container.segments) == 1


@settings(max_examples=25)
@given(images(), st.sampled_from([1, 2, 3, 10, 1000]))
def test_round_trip_in_few_steps(check_codec, photo, cpu, planes, steps):
    container = unpack(round_trip(check_codec, photo, cpu, planes, steps))
    atoms = len(container.order.atoms)
    assert len(container.call_starts) <= min(steps, atoms)
    if atoms:
        loss = schedule.loss_for_order(photo.loss[container.channels], container.order)
        assert container.call_starts == schedule.best_schedule(container.order.sizes(), loss, steps).calls


@pytest.mark.parametrize("shape", [(3, 1, 1), (1, 1, 1), (3, 1, 40), (3, 40, 1), (1, 2, 2), (3, 33, 32), (3, 5, 300)])
def test_sizes_at_the_edges(check_codec, photo, cpu, shape):
    round_trip(check_codec, photo, cpu, content("noisy gradient", shape, np.random.default_rng(1)))


@settings(max_examples=20)
@given(images(24), st.integers(1, 300), st.sampled_from([None, 4]), st.booleans())
def test_segments(check_codec, photo, cpu, planes, limit, steps, learn):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(streams, "SYMBOLS", limit)
        container = unpack(round_trip(check_codec, photo, cpu, planes, steps, learn))
        if planes.size > 3:
            assert len(container.segments) <= 2 * planes.size / limit + 1
        if len(container.segments) > 1:
            for wrong in (container.segments[:-1], container.segments[::-1], (*container.segments, words(1), words(1))):
                fails(replace(container, segments=wrong), planes, photo, cpu)


@settings(max_examples=15)
@given(images(24), st.integers(1, 60))
def test_batches(check_codec, photo, cpu, planes, size):
    """Atoms of several batches without learning, as in images of more than a quarter of a megapixel."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(streams, "BATCH", size)
        round_trip(check_codec, photo, cpu, planes, learn=False)


@pytest.mark.parametrize("channels", [1, 3])
def test_side_information(check_codec, photo, cpu, channels):
    rng = np.random.default_rng(channels)
    planes = content("noisy gradient", (channels, 64, 144), rng)
    file = round_trip(check_codec, photo, cpu, planes, steps=12)
    container = unpack(file)
    want = sideinfo.quantise(sideinfo.measure(planes), photo.side_mean, photo.side_std)
    assert container.side_info == want.tobytes()
    assert unpack(pack(codec.encode(planes[:, :63], photo, cpu, 12))).side_info == b""
    with pytest.raises(FormatError, match="21 bytes of side information, the model needs 22"):
        codec.decode(replace(container, side_info=container.side_info[:-1]), photo, cpu)
    fails(replace(container, side_info=bytes(reversed(container.side_info))), planes, photo, cpu)


@given(st.integers(1, 30), st.integers(1, 30), st.sampled_from([1, 3]), st.data())
def test_pyramid(level_array, height, width, channels, data):
    """Whatever the phase, at every call the arrays hold what is known, and in the end the image."""
    phase = tuple(data.draw(st.integers(0, min(length, 2) - 1)) for length in (height, width))
    order = LatticeOrder(height, width, channels, phase)
    planes = np.random.default_rng(height * 31 + width).integers(0, 256, (channels, height, width), dtype=np.uint8)
    starts = sorted({0, *data.draw(st.lists(st.integers(0, max(0, len(order.atoms) - 1)), max_size=12))})
    pyramid = codec.Pyramid(order, planes[:, phase[0], phase[1]])
    ends = [*starts[1:], len(order.atoms)]
    for start, end in zip(starts, ends, strict=True):
        pieces = []
        for atom in order.atoms[start:end]:
            complete = level_array(planes, order, atom.level, len(order.atoms))
            size = int(np.prod(order.lattice_shape(atom.level, atom.kind)))
            if size:
                known = level_array(planes, order, atom.level, start)
                np.testing.assert_array_equal(pyramid.array(atom.level), known)
                pixels = np.arange(size)[:: data.draw(st.sampled_from([1, -1]))]
                at, stride = window_offsets(order, atom, pixels)
                assert stride == known.shape[1]
                pieces.append((atom, complete.reshape(-1)[at + atom.channel][np.argsort(pixels)]))
        for atom, values in pieces:
            pyramid.fill(atom, values)
    np.testing.assert_array_equal(pyramid.planes(channels), planes)


def words(*values: int) -> np.ndarray:
    return np.array(values, np.uint32)


def fails(container, planes, model, backend) -> bool:
    """Decoding must raise FormatError, or else give the right pixels after all; returns whether it raised."""
    try:
        decoded = codec.decode(container, model, backend)
    except FormatError:
        return True
    np.testing.assert_array_equal(decoded, planes)
    return False


@pytest.fixture(scope="module")
def picture():
    return content("noisy gradient", (3, 20, 23), np.random.default_rng(5))


@pytest.fixture(scope="module")
def encoded(picture, photo, cpu):
    """Without learning: test_learning.py damages files with it."""
    return codec.encode(picture, photo, cpu, learn=False)


@settings(max_examples=60)
@given(st.data())
def test_damaged_words(encoded, picture, photo, cpu, data):
    """As if the file's checksum had missed it."""
    damaged = encoded.segments[0].copy()
    damaged[data.draw(st.integers(0, len(damaged) - 1))] ^= np.uint32(1 << data.draw(st.integers(0, 31)))
    cut = damaged[: data.draw(st.integers(0, len(damaged)))]
    for segment in (damaged, cut):
        assert fails(replace(encoded, segments=(segment,)), picture, photo, cpu)


def test_damaged_streams(encoded, picture, photo, cpu):
    (segment,) = encoded.segments
    for segments in [
        (segment, words(7)),
        (segment, words()),  # not one stream too few, but one too many
        (words(), segment),
        (words(),),
        (np.append(segment, words(1)),),
        (np.append(segment, words(0)),),
        (segment[1:],),
        (segment[:-1],),
    ]:
        assert fails(replace(encoded, segments=segments), picture, photo, cpu)
    assert fails(replace(encoded, pixel_crc=encoded.pixel_crc ^ 1), picture, photo, cpu)
    assert fails(replace(encoded, calls=(0,)), picture, photo, cpu)
    assert fails(replace(encoded, phase=(0, 1)), picture, photo, cpu)
    assert fails(replace(encoded, learning=True), picture, photo, cpu)


def test_damaged_later_stream(picture, photo, cpu, monkeypatch):
    monkeypatch.setattr(streams, "SYMBOLS", 500)
    container = codec.encode(picture, photo, cpu, learn=False)
    assert len(container.segments) >= 3
    for position in range(len(container.segments)):
        for wrong in (words(), words(0), words(5, 0), words(5)):
            segments = list(container.segments)
            segments[position] = wrong
            assert fails(replace(container, segments=tuple(segments)), picture, photo, cpu)


def phases(shape: tuple[int, ...]) -> st.SearchStrategy[tuple[int, int]]:
    return st.tuples(*(st.integers(0, min(side, 2) - 1) for side in shape[-2:]))


@settings(max_examples=40)
@given(images(), st.integers(1, 200), st.sampled_from([None, 1, 4, 20]), st.booleans(), st.data())
def test_levels(check_codec, photo, cpu, planes, cut, steps, learn, data):
    """Each stream that a level needs is decoded, and no other."""
    phase = data.draw(phases(planes.shape))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(order, "CUT", cut)
        coded = codec.encode(planes, photo, cpu, steps, learn=learn, phase=phase)
        container = unpack(pack(coded))
        cuts = container.order.cuts
        assert container.phase == phase
        assert len(container.segments) == 1 + len(cuts)
        np.testing.assert_array_equal(codec.decode(container, photo, cpu), planes)
        for position, level in enumerate(cuts):
            wanted = planes[:, phase[0] :: 2 << level, phase[1] :: 2 << level]
            junk = tuple(words(9, 9, 9 + position) for _ in cuts[position:])
            broken = replace(container, segments=container.segments[: position + 1] + junk)
            fractions = []
            got = codec.decode(broken, photo, cpu, level=level + 1, progress=fractions.append)
            np.testing.assert_array_equal(got, wanted)
            assert fractions == sorted(fractions)
            assert fractions[-1:] in ([1.0], [])
            assert fails(broken, planes, photo, cpu)
            damaged = (*container.segments[:position], words(9), *container.segments[position + 1 :])
            with suppress(FormatError):  # this level has no checksum here
                assert (
                    codec.decode(replace(container, segments=damaged), photo, cpu, level=level + 1).shape == got.shape
                )


@pytest.mark.parametrize(
    ("shape", "phase"),
    [
        ((1, 1, 40), (0, 0)), ((1, 1, 40), (0, 1)), ((3, 40, 1), (0, 0)), ((3, 40, 1), (1, 0)), ((1, 1, 2), (0, 1)),
        ((3, 2, 2), (0, 0)), ((3, 2, 2), (0, 1)), ((3, 2, 2), (1, 0)), ((3, 2, 2), (1, 1)),
    ],
)  # fmt: skip
def test_levels_of_narrow_images(photo, cpu, monkeypatch, shape, phase):
    monkeypatch.setattr(order, "CUT", 1)
    planes = content("noisy gradient", shape, np.random.default_rng(2))
    container = codec.encode(planes, photo, cpu, phase=phase)
    np.testing.assert_array_equal(codec.decode(container, photo, cpu), planes)
    assert container.order.cuts
    for level in container.order.cuts:
        np.testing.assert_array_equal(
            codec.decode(container, photo, cpu, level=level + 1),
            planes[:, phase[0] :: 2 << level, phase[1] :: 2 << level],
        )


def test_levels_end_streams_whatever_codes_them(photo, cpu, monkeypatch):
    """The same streams by one thread and by two, that is by lanes, and by all back ends."""
    monkeypatch.setattr(order, "CUT", 100)
    monkeypatch.setattr(codec, "LANES_FROM", 1)
    planes = content("noisy gradient", (3, 60, 70), np.random.default_rng(3))
    expected = pack(codec.encode(planes, photo, cpu, threads=1))
    assert len(unpack(expected).segments) >= 4
    for steps in (None, 12):
        files = {pack(codec.encode(planes, photo, cpu, steps, threads=threads)) for threads in (1, 2, 3)}
        assert len(files) == 1
        assert steps or files == {expected}
    for product in network.PRODUCTS:
        backend = network.backend("cpu", product)
        assert pack(codec.encode(planes, photo, backend, threads=2)) == expected
        for threads in (1, 2):
            got = codec.decode(unpack(expected), photo, backend, level=1, threads=threads)
            np.testing.assert_array_equal(got, planes[:, ::2, ::2])


def test_lacking_streams_are_told_before_memory_is_taken(photo, cpu):
    """A header of 2^30 pixels and no streams to go with it."""
    container = replace(codec.encode(np.zeros((1, 9, 9), np.uint8), photo, cpu), width=2**15, height=2**15)
    tracemalloc.start()
    try:
        with pytest.raises(FormatError, match="a stream is missing"):
            codec.decode(container, photo, cpu)
        with pytest.raises(FormatError, match="a stream is missing"):
            codec.decode(container, photo, cpu, level=3)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


def changed(model: Model, name: str, index: int) -> Model:
    """The model with one integer changed by one unit."""
    tensor = model.tensors[name].copy()
    flat = tensor.reshape(-1)
    flat[index % flat.size] += 1 if flat[index % flat.size] < np.iinfo(tensor.dtype).max else -1
    return replace(model, tensors={**model.tensors, name: tensor})


def test_another_model_is_noticed(encoded, picture, photo, cpu):
    """A decoder whose network differs in one unit of one weight fails; it never returns other pixels."""
    rng = np.random.default_rng(8)
    noticed = 0
    for attempt in range(24):
        expert, layer = attempt % 9, attempt % 2  # the experts of level 0
        other = changed(photo, f"expert.{expert}.{layer}.weight", int(rng.integers(1 << 20)))
        assert model_id(other.tensors) != photo.id
        noticed += fails(encoded, picture, other, cpu)
    assert noticed >= 4  # one unit of a weight need not matter to 460 pixels: about half of them do
    for name in ("table.compand", "table.logistic", "table.exp2", "table.class_scale"):
        other = replace(photo, tensors={**photo.tensors, name: photo.tensors[name] - 1})
        fails(encoded, picture, other, cpu)


def test_float32_is_exact_where_its_sums_could_round(photo):
    """A model with layers so wide that a float32 sum may reach 2**24: they are computed in float64."""
    tensors = dict(photo.tensors)
    inputs = tensors["expert.0.0.weight"].shape[1]
    tensors["expert.0.0.weight"] = np.ones((1100, inputs), np.int8)
    tensors["expert.0.0.bias"] = tensors["expert.0.0.shift"] = np.zeros(1100, np.int32)
    tensors["expert.0.1.weight"] = np.full((256, 1100), 127, np.int8)
    wide = replace(photo, tensors=tensors)
    planes = content("random", (3, 8, 8), np.random.default_rng(0))
    files = {pack(codec.encode(planes, wide, network.backend("cpu", product))) for product in network.PRODUCTS}
    assert len(files) == 1
    np.testing.assert_array_equal(codec.decode(unpack(*files), wide, network.backend("cpu", "float32")), planes)


@pytest.mark.parametrize("learn", [True, False])
def test_frequencies_cost_what_the_stream_holds(picture, photo, cpu, learn):
    """The words of a file are as many as the intervals' code length asks for."""
    bits = []

    class Counting(codec.EncodingCoder):
        def batch(self, atom, pixels, distribution):
            values = super().batch(atom, pixels, distribution)
            bits.append(2 * 24 * len(values) - np.log2(distribution.intervals(values)[1].astype(float)).sum())
            return values

    order = LatticeOrder(*picture.shape[1:], 3)
    coder = Counting(picture, order)
    plan = codec.Plan(order, tuple(range(len(order.atoms))), learn)
    with Predictor(photo, cpu, None) as predictor:
        decoded = codec.walk(plan, predictor, coder)
    np.testing.assert_array_equal(decoded, picture)
    assert mixture.TOTAL == 1 << 24
    assert 0 <= 32 * len(coder.encoder.finish()[0]) - sum(bits) - 24 <= 65


def test_too_many_pixels(photo, cpu):
    planes = np.broadcast_to(np.uint8(0), (1, 2**15, 2**15 + 1))  # takes no memory
    with pytest.raises(ImageError, match="over the limit of 1073741824 pixels"):
        codec.encode(planes, photo, cpu)


def test_progress(picture, photo, cpu):
    encoding, decoding = [], []
    container = codec.encode(picture, photo, cpu, progress=encoding.append)
    codec.decode(container, photo, cpu, progress=decoding.append)
    for fractions in (encoding, decoding):  # an encoder codes several atoms at a time
        assert fractions == sorted(fractions)
        assert fractions[-1] == 1.0


def test_library(picture):
    pixels = np.ascontiguousarray(picture[[1, 0, 2]].transpose(1, 2, 0))  # G, R, B -> R, G, B
    fractions = []
    file = ardmzip.compress(pixels, progress=fractions.append)
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0
    assert file == ardmzip.compress(Image.fromarray(pixels), verify=False, backend="float64", device="cpu")
    restored = ardmzip.decompress(file, device="cpu", backend="float32")
    assert restored.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(restored), pixels)
    gray = ardmzip.decompress(ardmzip.compress(pixels[:, :, 0], steps=3))
    assert gray.mode == "L"
    np.testing.assert_array_equal(np.asarray(gray), pixels[:, :, 0])


@pytest.mark.parametrize("verify", [True, False])
def test_progress_of_a_single_pixel(verify):
    fractions = []
    ardmzip.compress(np.zeros((1, 1), np.uint8), verify=verify, progress=fractions.append)
    assert fractions[-1] == 1.0


def test_packing_belongs_to_encoding(picture, monkeypatch):
    """Half of the progress is reported once the bytes are there, so that encoding times include all of it."""
    fractions, before = [], []

    def noted(container):
        before.extend(fractions)
        return pack(container)

    monkeypatch.setattr("ardmzip.api.pack", noted)
    ardmzip.compress(picture[0], learn=False, progress=fractions.append)
    assert before
    assert max(before) < 0.5
    assert fractions[len(before)] == 0.5


def test_library_errors(picture, encoded, monkeypatch):
    pixels = picture[0]
    for steps in (0, -1):
        with pytest.raises(OptionError, match=f"steps must be at least 1, not {steps}"):
            ardmzip.compress(pixels, steps=steps)
    with pytest.raises(ModelError, match="unknown model"):
        ardmzip.compress(pixels, model="nonesuch")
    with pytest.raises(ModelError, match="0102, which is not installed"):
        ardmzip.decompress(pack(replace(encoded, model_id=b"\1\2\3\4")))
    file = bytearray(ardmzip.compress(pixels))
    for position in range(len(file)):
        file[position] ^= 16
        with pytest.raises((FormatError, ModelError)):  # the latter for a damaged model id in the short form
            ardmzip.decompress(bytes(file))
        file[position] ^= 16
    monkeypatch.setattr(codec, "decode", lambda *args, **options: np.zeros_like(picture[:1]))
    with pytest.raises(ArdmError, match="verification failed"):
        ardmzip.compress(pixels)
