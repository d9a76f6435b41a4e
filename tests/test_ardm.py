"""The paper's own models: order, schedule, inputs, exact networks, round trips in random order, files and commands."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import plain_random
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ardmzip import api, cli, heatmap, network
from ardmzip import model as models
from ardmzip.ardm import codec, inputs, order, schedule
from ardmzip.ardm import model as random_order
from ardmzip.ardm.order import RandomOrder, blocks, digits, permutation, spans
from ardmzip.container import Container, pack, unpack
from ardmzip.errors import FormatError, ImageError, ModelError, OptionError
from ardmzip.schedule import best_schedule

KINDS = {"oa": (256, False), "up2": (2, False), "up4": (4, False), "up16": (16, False), "direct4": (4, True)}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory, random_integers):
    """Tiny models by name, and their files."""
    folder = tmp_path_factory.mktemp("models")
    found = {}
    for name, (branching, direct) in KINDS.items():
        random_order.save(folder / f"{name}.safetensors", name, random_integers(branching, direct), {"seed": 3})
        found[name] = random_order.require(models.load(folder / f"{name}.safetensors"))
    return found, folder


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Smooth planes with noise: uint8 [3, height, width]."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    smooth = np.stack([90 + 2 * y + x, 70 + y + 3 * x, 200 - y - x])
    return np.clip(smooth + rng.integers(-2, 3, smooth.shape), 0, 255).astype(np.uint8)


# Order


def test_permutation_is_that_of_splitmix64():
    def key(state: int) -> int:
        x = state % 2**64
        x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        x = (x ^ (x >> 27)) * 0x94D049BB133111EB % 2**64
        return x ^ (x >> 31)

    # the generator's first numbers from state 1234567, as its authors publish them
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    assert [key(1234567 + i * 0x9E3779B97F4A7C15) for i in (1, 2, 3)] == published
    keys = [key(256 * 7 + 2 + (i + 1) * 0x9E3779B97F4A7C15) for i in range(500)]
    assert permutation(7, 2, 500).tolist() == sorted(range(500), key=lambda i: keys[i])


@given(st.integers(1, 200), st.integers(1, 200))
def test_blocks_cover_an_image_once(height, width):
    seen = np.zeros((height, width), int)
    found = blocks(height, width)
    for block in found:
        seen[block.rows, block.columns] += 1
        assert 1 <= block.height <= order.SIDE
        assert 1 <= block.width <= order.SIDE
    assert (seen == 1).all()
    assert len(found) == -(-height // 32) * -(-width // 32)
    assert len({(block.height, block.width) for block in found}) <= 4


@pytest.mark.parametrize("branching", [2, 4, 16, 256])
def test_digits_make_a_value(branching):
    assert np.prod([base for stage in digits(branching) for base in stage]) == 256
    assert spans(branching)[0] == 256
    assert spans(branching)[-1] == 1


# Schedule


def falling(size: int, seed: int, stages: int = 1, most: int = 60) -> np.ndarray:
    return -np.sort(-np.random.default_rng(seed).integers(1, most, (stages, size)), axis=1)


@settings(max_examples=30)
@given(st.integers(1, 9), st.integers(0, 10**6), st.data())
def test_best_calls_cost_as_little_as_the_best_of_all_cuts(size, seed, data):
    count = data.draw(st.integers(1, size))
    loss = falling(size, seed, most=9)
    found = schedule.best_calls(loss[0], count)
    cuts = [(0, *rest) for rest in itertools.combinations(range(1, size), count - 1)]
    assert found in cuts
    assert schedule.cost(loss, (found,)) == min(schedule.cost(loss, (cut,)) for cut in cuts)


@settings(max_examples=10)
@given(st.integers(0, 10**6), st.integers(1, 40))
def test_best_calls_are_those_of_the_general_programme(seed, count):
    loss = falling(40, seed, most=10**6)
    general = best_schedule(np.ones(40), np.repeat(loss[0][:, None].astype(float), 40, 1), count)
    assert schedule.cost(loss, (schedule.best_calls(loss[0], count),)) == general.bits


@settings(max_examples=15)
@given(st.integers(0, 10**6), st.integers(2, 12))
def test_the_joint_programme_shares_calls_as_well_as_can_be(seed, count):
    loss = falling(6, seed, stages=2, most=30)
    loss[1] //= 3  # a stage with less to lose
    loss = np.maximum(loss, 1)
    found = schedule.calls(loss, count, schedule.BEST)
    assert sum(map(len, found)) == count
    best = min(
        schedule.cost(loss, (schedule.best_calls(loss[0], n), schedule.best_calls(loss[1], count - n)))
        for n in range(max(1, count - 6), min(6, count - 1) + 1)
    )
    assert schedule.cost(loss, found) == best
    others = [schedule.cost(loss, schedule.calls(loss, count, kind)) for kind in (schedule.EVEN, schedule.BY_STAGE)]
    assert schedule.cost(loss, found) <= others[1] <= others[0]


def test_every_kind_of_schedule_has_exactly_as_many_calls_as_asked_for(tiny):
    for name, count in (("oa", 17), ("up4", 4), ("up2", 30)):
        for kind in range(len(order.SPREADS)):
            found = tiny[0][name].calls(300, count, kind)
            assert sum(map(len, found)) == count
            assert all(own[0] == 0 and list(own) == sorted(set(own)) for own in found)


# Inputs and network


def test_inputs_are_the_same_beside_other_states_and_in_any_exact_arithmetic(tiny):
    tabs = tiny[0]["oa"].network(network.backend("cpu")).tables
    rng = np.random.default_rng(1)
    low = torch.from_numpy(rng.integers(0, 256, (5, 3, 9, 12)).astype(np.uint8))
    mask = torch.from_numpy(rng.random(low.shape) < np.array([0, 0.02, 0.5, 0.9, 1])[:, None, None, None])
    low = torch.where(mask, low, 0).to(torch.uint8)
    together = inputs.inputs(low, mask, 256, 1, tabs)
    for i in range(5):
        alone = inputs.inputs(low[i : i + 1], mask[i : i + 1], 256, 1, tabs)
        assert torch.equal(alone.x[0], together.x[i])
        assert torch.equal(alone.centre[0], together.centre[i])
    assert (together.centre[0] == together.centre[0, 0, 0, 0]).all()  # nothing is known: all are alike
    known = mask[4]
    assert torch.equal(together.centre[4][known], (64 * low[4].int())[known])


@pytest.mark.parametrize(("span", "finer"), [(256, 1), (256, 64), (64, 16), (4, 1)])
@pytest.mark.parametrize("shape", [(1, 1), (2, 7), (32, 31)])
def test_kernels_give_the_same_inputs(tiny, span, finer, shape):
    tabs = tiny[0]["oa"].network(network.backend("cpu")).tables
    rng = np.random.default_rng(3)
    values = torch.from_numpy(rng.integers(0, 256, (4, 3, *shape)).astype(np.uint8))
    mask = torch.from_numpy(rng.random(values.shape) < np.array([0, 0.1, 0.6, 1])[:, None, None, None])
    low = torch.where(mask, values // finer * finer, values.int() // span * span).to(torch.uint8)
    one, two = (make(low, mask, span, finer, tabs) for make in (inputs.inputs, inputs.inputs_by_kernels))
    for a, b in ((one.x, two.x), (one.centre, two.centre), (one.cls, two.cls)):
        assert a.dtype == b.dtype
        assert torch.equal(a, b)


def test_sums_of_weights_are_exact():
    found = inputs.build()
    for name in ("near", "wide"):
        # twice as trusted, 3 channels, and the largest differences in any unit
        assert 4 * found[name].astype(np.int64).sum() * 2 * 3 * 1024 < 2**53


@pytest.mark.parametrize("kernel", [1, 3])
def test_columns_make_a_convolution(kernel):
    from ardmzip.ardm.network import columns

    x = torch.randint(-128, 128, (2, 7, 5, 3), dtype=torch.int8)
    w = torch.randint(-128, 128, (4, kernel * kernel * 3))
    product = columns(x, kernel, 2).long() @ w.t()
    weight = w.view(4, kernel, kernel, 3).permute(0, 3, 1, 2).double()
    want = torch.nn.functional.conv2d(x.permute(0, 3, 1, 2).double(), weight, padding=kernel // 2 * 2, dilation=2)
    assert torch.equal(product.double(), want.permute(0, 2, 3, 1).reshape(-1, 4))


@pytest.mark.parametrize("name", KINDS)
def test_boundaries_share_out_all_frequencies(tiny, name):
    found = tiny[0][name].network(network.backend("cpu", "float64", False))
    rng = np.random.default_rng(2)
    outputs = torch.from_numpy(rng.integers(-4000, 4000, (50, found.outputs)))
    centre = torch.from_numpy(rng.integers(0, 255 * 64, 50))
    cls = torch.from_numpy(rng.integers(0, 37, 50).astype(np.uint8))
    from ardmzip.ardm.network import Digits

    own = Digits(found, outputs, centre, cls, torch.zeros(50, dtype=torch.int64), 256)
    for base in digits(found.branching)[0]:
        edges = own.boundaries(base)
        assert (edges[:, 0] == 0).all()
        assert (edges[:, -1] == 2**24).all()
        assert (edges.diff(dim=1) >= 2).all()
        own.fix(torch.from_numpy(rng.integers(0, base, 50)), base)


# Coding


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("shape", [(1, 1), (5, 3), (33, 7)])
def test_round_trip_is_the_same_on_all_back_ends_and_threads(tiny, check_codec, name, shape):
    model, planes = tiny[0][name], picture(*shape)
    chosen = codec.choose_order(*shape, model, steps=21)
    files = set()
    for product, numba, threads in (("auto", None, 1), ("float32", True, 2), ("float64", False, 1)):
        backend = network.backend("cpu", product, numba)

        def push(data, backend=backend, threads=threads):
            return pack(codec.encode(data, model, backend, chosen, threads=threads))

        def pop(message, backend=backend, threads=threads):
            return codec.decode(unpack(message), model, backend, threads=threads)

        files.add(check_codec(push, pop, planes) if product == "auto" else push(planes))
        assert np.array_equal(pop(next(iter(files))), planes)
    assert len(files) == 1


@pytest.mark.parametrize(
    ("name", "shape", "steps", "kind"),
    [
        ("oa", (5, 7), 11, 2), ("oa", (34, 4), 6, 0), ("up4", (6, 5), 19, 2), ("up2", (3, 4), 17, 1),
        ("direct4", (7, 4), 9, 2),
    ],
)  # fmt: skip
def test_files_are_as_the_format_says(tiny, cpu, name, shape, steps, kind):
    """A decoder written from docs/FORMAT.md reads them."""
    model, planes = tiny[0][name], picture(*shape, seed=4)
    coded = codec.encode(planes, model, cpu, codec.choose_order(*shape, model, steps, kind, seed=99))
    assert np.array_equal(plain_random.decode(unpack(pack(coded)), model.tensors), planes)


@pytest.mark.parametrize("kind", range(len(order.SPREADS)))
@pytest.mark.parametrize("name", ["oa", "up4"])
def test_every_kind_and_number_of_calls_decodes(tiny, cpu, name, kind):
    model, planes = tiny[0][name], picture(4, 5, seed=3)
    for steps in (model.stages, 9, 10**9):
        chosen = codec.choose_order(4, 5, model, steps, kind, seed=123456789)
        assert chosen.calls == min(steps, 60 * model.stages)
        coded = codec.encode(planes, model, cpu, chosen)
        assert coded.network_calls == chosen.calls
        assert np.array_equal(codec.decode(unpack(pack(coded)), model, cpu), planes)


def test_images_decoded_together_are_as_decoded_alone(tiny, cpu):
    model = tiny[0]["up4"]
    planes = [picture(6, 40, seed) for seed in range(3)]
    chosen = codec.choose_order(6, 40, model, 12)
    coded = [codec.encode(p, model, cpu, chosen) for p in planes]
    assert np.array_equal(codec.decode_many(coded, model, cpu), np.stack(planes))
    other = codec.encode(picture(6, 41), model, cpu, chosen)
    with pytest.raises(ValueError, match="cannot be decoded together"):
        codec.decode_many([coded[0], other], model, cpu)


def test_the_stream_is_as_long_as_the_intervals_say(tiny, cpu):
    model, planes = tiny[0]["oa"], picture(32, 32)
    one_call = codec.encode(planes, model, cpu, RandomOrder(3, 1, schedule.BEST))
    with codec.walking(model, cpu) as walk:
        bits = codec.ideal_bits(walk, planes[None], 0, permutation(3, 0, planes.size), 0)
    assert abs(32 * len(one_call.segments[0]) - bits) < 64


def test_damage_is_found(tiny, cpu):
    model, planes = tiny[0]["oa"], picture(9, 9)
    coded = codec.encode(planes, model, cpu, codec.choose_order(9, 9, model, 8))
    words = coded.segments[0].copy()
    words[len(words) // 2] ^= 1 << 9
    with pytest.raises(FormatError):
        codec.decode(replace(coded, segments=(words,)), model, cpu)
    with pytest.raises(FormatError, match="244 network calls where 1 to 243"):
        codec.decode(replace(coded, random=RandomOrder(3, 244, 2)), model, cpu)


# Container and models


def container(random: RandomOrder | None, **changes) -> Container:
    words = (np.arange(3, dtype=np.uint32),)
    return replace(Container(8, 8, 3, (0, 0), b"abcd", b"", None, words, 0, random=random), **changes)


def test_container_keeps_the_order():
    found = RandomOrder(2**31 - 1, 300, 1)
    assert unpack(pack(container(found))).random == found
    assert unpack(pack(container(None))).random is None


@pytest.mark.parametrize("change", [{"channels": 1}, {"learning": True}, {"calls": (0,)}, {"side_info": b"x"}])
def test_what_belongs_to_the_lattice_is_refused_beside_a_random_order(change):
    with pytest.raises(ValueError, match="random order"):
        pack(container(RandomOrder(1, 5, 2), **change))


def test_orders_that_cannot_be_are_refused():
    good = pack(container(RandomOrder(1, 5, 2)))
    chunk = bytes([0x8E, 3, 2, 1, 5])
    assert chunk in good
    import zlib

    for bad, why in (
        (bytes([0x8E, 3, 3, 1, 5]), "kind 3"),
        (bytes([0x8E, 3, 2, 1, 0]), "0 network calls"),
        (bytes([0x8E, 4, 2, 1, 5, 9]), "stray"),
    ):
        body = good.replace(chunk, bad)[:-4]
        with pytest.raises(FormatError, match=why):
            unpack(body + zlib.crc32(body).to_bytes(4, "little"))


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("form", lambda a: a * 0),
        ("loss", lambda a: a[:, ::-1]),
        ("layers", lambda a: a[:3]),
        ("conv.2.weight", lambda a: a[:4]),
        ("conv.1.bias", lambda a: a[:3]),
        ("conv.0.bias", lambda a: a * 0 + np.int32(2**31 - 1)),
        ("head.weight", lambda a: a[:-1]),
        ("table.near", lambda a: a[:-1]),
    ],
)
def test_models_that_do_not_fit_are_refused(random_integers, name, change):
    tensors = random_integers(256, False)
    random_order.check(tensors)
    with pytest.raises(ModelError):
        random_order.check(tensors | {name: np.ascontiguousarray(change(tensors[name]))})
    with pytest.raises(ModelError, match="missing"):
        random_order.check({k: v for k, v in tensors.items() if k != name})
    with pytest.raises(ModelError, match="unknown tensor"):
        random_order.check(tensors | {"conv.9.weight": tensors["layers"]})


# The library and the commands


def test_any_colour_image_goes_through_the_library(tiny):
    path = tiny[1] / "up4.safetensors"
    for shape in ((40, 33, 3), (8, 9, 4)):
        planes = picture(*shape[:2])
        image = np.dstack([planes.transpose(1, 2, 0), planes[0] // 2])[:, :, : shape[2]]
        data = api.compress(image, model=path, steps=12)
        assert np.array_equal(api.decompress_array(data, model=path), image)
        found = unpack(data)
        assert found.random == RandomOrder(3, 12, schedule.BEST)
        assert np.array_equal(api.decompress_array(data, model=path, level=1), image[::2, ::2])
        region = api.decompress_array(data, model=path, region=(2, 3, 5, 4))
        assert np.array_equal(region, image[3:7, 2:7])
    deep = (image[:, :, :3].astype(np.uint16) << 8) + 77
    assert np.array_equal(api.decompress_array(api.compress(deep, model=path, steps=9), model=path), deep)
    wide = picture(24, 100).transpose(1, 2, 0)
    tiled = api.compress(wide, model=path, steps=90, tile=64)
    assert [tile.random.calls for tile in unpack(tiled).tiles if tile.random] == [90, 90]
    assert np.array_equal(api.decompress_array(tiled, model=path), wide)


def test_what_these_models_cannot_do_is_said(tiny):
    path = tiny[1] / "up4.safetensors"
    image = picture(8, 8).transpose(1, 2, 0)
    with pytest.raises(ImageError, match="not gray"):
        api.compress(image[:, :, 0], model=path)
    with pytest.raises(OptionError, match="does not learn"):
        api.compress(image, model=path, learn=True)
    with pytest.raises(OptionError, match="at least 4 steps"):
        api.compress(image, model=path, steps=3)
    data = api.compress(picture(16, 16).transpose(1, 2, 0), model=path, steps=60)
    with pytest.raises(ModelError, match="needs model"):
        api.decompress(data, model="photo")
    with pytest.raises(OptionError, match="random order"):
        heatmap.bits(unpack(data), lambda: (models.load(path), network.backend()))
    with pytest.raises(ModelError, match="lattice order"):
        random_order.require(models.load("photo"))


def test_commands(tiny, tmp_path):
    from click.testing import CliRunner

    def run(*args: object, code: int = 0) -> str:
        result = CliRunner().invoke(cli.main, list(map(str, args)))
        assert result.exit_code == code, result.output
        return result.output

    path, source = tiny[1] / "oa.safetensors", tmp_path / "a.png"
    Image.fromarray(picture(20, 30).transpose(1, 2, 0)).save(source)
    assert "random order of seed 3, best schedule" in run("compress", "-m", path, "--steps", 15, "-v", source)
    told = run("info", tmp_path / "a.ardm")
    assert "15 network calls, random order of seed 3, best schedule" in told
    run("decompress", "-m", path, tmp_path / "a.ardm", "-o", tmp_path / "b.png")
    assert np.array_equal(np.asarray(Image.open(tmp_path / "b.png")), np.asarray(Image.open(source)))
    assert "lattice order" in run("schedule", "-m", path, "--size", "30x20", code=1)
