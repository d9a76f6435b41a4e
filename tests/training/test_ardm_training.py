"""Training of the paper's models: objective, stages, runs that resume, export to exact integers, the paper's size."""

from __future__ import annotations

import io
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ardmzip import model as models
from ardmzip import network as backends
from ardmzip import tables
from ardmzip.ardm import codec, inputs
from ardmzip.ardm import model as random_order
from ardmzip.ardm.order import digits, permutation
from ardmzip.errors import ArdmError, ImageError
from ardmzip.training import ardm_export, cifar
from ardmzip.training.ardm import (
    ArdmConfig,
    Batches,
    bits_of_unknown,
    feature_tables,
    is_random_order,
    photo_crops,
    resume,
    train,
    validate,
    validation_images,
)
from ardmzip.training.ardm_net import TIMES

CONFIGS = Path(__file__).parents[2] / "configs"
CPU = torch.device("cpu")


def picture(side: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side]
    smooth = np.stack([rng.integers(20, 200) + s * y + t * x for s, t in rng.uniform(-1, 1, (3, 2))], 2)
    return np.clip(smooth + rng.normal(0, 3, smooth.shape), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Threads of torch that wait for each other are slow on machines that are shared."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Tiny images, as many other sizes, and two photographs."""
    place = tmp_path_factory.mktemp("images")
    for name, side, count in (("small", 32, 40), ("photos", 150, 2)):
        (place / name).mkdir()
        for i in range(count):
            Image.fromarray(picture(side, i)).save(place / name / f"{i}.png")
    Image.fromarray(picture(20, 99)).save(place / "small" / "odd.png")
    return place


@pytest.fixture(scope="module")
def config(folder) -> ArdmConfig:
    return ArdmConfig(
        "tiny", [str(folder / "small")], photos=[str(folder / "photos")], photo_sides=[64, 64], branching=16, width=8,
        dilations=[1, 2], neck=8, components=2, minutes=0.15, learning_rate=0.05, quantised_share=0.5, batch=8,
        smaller=0.3, average=0.5, precision="32-true", accelerator="cpu", threads=2,
    )  # fmt: skip


@pytest.fixture(scope="module")
def run(config, tmp_path_factory):
    """A run that was stopped after its first step and then went on to its end."""
    out = tmp_path_factory.mktemp("run")
    stopped = train(config, out, steps=1)
    assert stopped.step == 1
    finished = train(config, out)
    assert finished.finished
    assert finished.step > 1
    return finished


def test_configurations_are_read_and_checked(tmp_path):
    small = ArdmConfig.load(CONFIGS / "up4-small.toml")
    assert (small.branching, small.name) == (4, "up4-small")
    assert is_random_order(CONFIGS / "oa-small.toml")
    assert not is_random_order(CONFIGS / "photo.toml")
    for text in ("name = 'a'", "name = 'a'\ndata = []\nbranching = 3", "name = 'a'\ndata = []\nwhat = 1"):
        (tmp_path / "bad.toml").write_text(text)
        with pytest.raises(ArdmError):
            ArdmConfig.load(tmp_path / "bad.toml")
    with pytest.raises(ArdmError, match="direct is for stages"):
        replace(small, branching=256, parametrisation="direct")


def test_images_are_split_and_photographs_cut(config):
    held_out = validation_images(config)
    assert held_out.shape[1:] == (3, 32, 32)
    crops = photo_crops(config)
    assert crops.shape[1:] == (3, 32, 32)
    assert len(crops) == 4  # one of the two is held out; 64 x 64 pixels are four tiles
    with pytest.raises(ArdmError, match="held out"):
        validation_images(replace(config, data=[str(Path(config.photos[0]) / "0.png")]))


def test_cifar_is_read_as_others_store_it(tmp_path, config):
    pictures = np.stack([picture(32, seed) for seed in range(30)])
    rows = pictures.transpose(0, 3, 1, 2).reshape(30, -1)
    python, binary = tmp_path / "cifar-10-batches-py", tmp_path / "bin"
    python.mkdir()
    binary.mkdir()
    (python / "data_batch_1").write_bytes(pickle.dumps({b"data": rows, b"labels": [1] * 30}, protocol=2))
    (python / "test_batch").write_bytes(b"never looked at")
    (binary / "data_batch_1.bin").write_bytes(np.pad(rows, ((0, 0), (1, 0))).tobytes())
    for place in (python, binary):
        assert np.array_equal(np.stack(list(cifar.images(cifar.batches(place)[0]))), pictures)
    assert len(validation_images(replace(config, data=[str(python)]))) == 2
    both = validation_images(replace(config, data=[str(python), config.data[0]]))
    assert len(both) > 2
    (python / "data_batch_1").write_bytes(pickle.dumps({b"data": Path("x")}))
    for path, content in ((python / "data_batch_1", None), (binary / "data_batch_1.bin", b"short")):
        if content:
            path.write_bytes(content)
        with pytest.raises(ImageError, match="not a batch"):
            list(cifar.images(path))


def test_cifar_is_read_from_parquet(tmp_path):
    parquet, pyarrow = pytest.importorskip("pyarrow.parquet"), pytest.importorskip("pyarrow")
    buffer = io.BytesIO()
    Image.fromarray(picture(32, 1)).save(buffer, "PNG")
    table = pyarrow.table({"img": [{"bytes": buffer.getvalue(), "path": None}], "label": [1]})
    parquet.write_table(table, tmp_path / "train-00000-of-00001.parquet")
    (found,) = cifar.images(cifar.batches(tmp_path)[0])
    assert np.array_equal(found, picture(32, 1))


def test_batches_draw_steps_evenly_and_know_as_many_as_they_say(config):
    images = np.zeros((5, 3, 32, 32), np.uint8)
    batches = Batches(config, images, images[:0], [1])
    count, mask = batches.known(np.zeros((8, 3, 10, 12), np.uint8))
    assert np.array_equal(mask.reshape(8, -1).sum(1), count)
    assert sorted(8 * count // 360) == list(range(8))
    assert {batches.draw().shape[2:] for _ in range(20)} != {(32, 32)}


@pytest.mark.parametrize(("branching", "parametrisation"), [(256, "data"), (4, "data"), (4, "direct")])
def test_the_loss_is_the_code_length_of_the_integers(config, tmp_path, branching, parametrisation):
    config = replace(config, branching=branching, parametrisation=parametrisation)
    torch.manual_seed(3)
    net = config.network()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    stages = len(digits(branching))
    path = tmp_path / "tiny.safetensors"
    random_order.save(path, "tiny", ardm_export.integer_tensors(net, np.full((stages, 3072), 99, np.int32)), {})
    loaded = random_order.require(models.load(path))
    images = np.stack([picture(32, seed).transpose(2, 0, 1) for seed in range(4)])
    for stage, known in ((0, 500), (stages - 1, 1500)):
        order = permutation(1, stage, 3072)
        mask = np.zeros((4, 3072), bool)
        mask[:, order[:known]] = True
        tensors = torch.from_numpy(images), torch.from_numpy(mask.reshape(images.shape)), torch.full((4,), known)
        with torch.no_grad():
            bits = float(bits_of_unknown(net, *tensors, feature_tables(CPU), True, [stage]).mean())
        with codec.walking(loaded, backends.backend("cpu")) as walk:
            exact = codec.ideal_bits(walk, images, stage, order, known) / (3072 - known)
        assert abs(bits - exact) < 0.01 * exact + 0.002


def test_the_exact_network_is_the_fake_quantised_one(config, tmp_path):
    torch.manual_seed(4)
    net = config.network()
    path = tmp_path / "tiny.safetensors"
    random_order.save(path, "tiny", ardm_export.integer_tensors(net, np.full((2, 3072), 99, np.int32)), {})
    loaded = random_order.require(models.load(path))
    backend = backends.backend("cpu")
    x = torch.randint(-128, 128, (2, 11, 9, inputs.INPUTS), dtype=torch.int8)
    row = torch.tensor([3, TIMES + 5])
    found = loaded.network(backend)
    integers = backend.head(found.head, found.trunk(x, row, backend))
    with torch.no_grad():
        floats = net(x.float() / tables.INPUT_ONE, row, True)
    assert torch.allclose(integers.float() / tables.PARAM_ONE, floats.reshape(len(integers), -1), atol=0.01)


def test_a_run_learns_and_is_exported(run, config, tmp_path):
    held_out = validation_images(config)
    start = validate(config.network(), held_out, True)
    assert validate(run.average, held_out, True) < start
    path = tmp_path / "tiny.safetensors"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ardm_export, "SEEDS", 2)
        patch.setattr(ardm_export.measure_losses, "__defaults__", (np.array([0, 700, 1500, 2800]),))
        patch.setattr(ardm_export.loss_table, "__defaults__", (np.array([0, 700, 1500, 2800]),))
        patch.setattr(ardm_export.schedule, "DEFAULT_CALLS", 12)
        patch.setattr(codec.schedule, "DEFAULT_CALLS", 12)
        card = ardm_export.export(run, path, images=1, files=1)
    loaded = random_order.require(models.load(path))
    assert loaded.card == card
    assert loaded.seed in (1, 2)
    assert (np.diff(loaded.tensors["loss"], axis=1) <= 0).all()
    assert card["parameters"] == sum(p.numel() for p in run.net.parameters())
    planes = held_out[0]
    coded = codec.encode(planes, loaded, backends.backend(), codec.choose_order(32, 32, loaded, 12))
    assert np.array_equal(codec.decode(coded, loaded, backends.backend()), planes)
    assert card["validation"]["files"]["bits_per_subpixel"] < 8


def test_a_run_begins_with_the_weights_of_another(config, tmp_path):
    whole = replace(config, branching=256)
    net = whole.network()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.normal_()
    torch.save({"average": {name: tensor.half() for name, tensor in net.state_dict().items()}}, tmp_path / "start.pt")
    begun = resume(replace(config, start=str(tmp_path / "start.pt")), tmp_path / "run")
    found, want = begun.average.state_dict(), net.state_dict()
    for name, tensor in want.items():
        rows = 2 if name in ("convs.0.bias", "convs.1.bias", "convs.3.bias") else 1
        assert torch.equal(found[name], tensor.half().float().repeat(*[1, rows, 1][-tensor.ndim :]))


def test_stages_share_a_step_and_losses_add_up(config):
    """Images of all stages in one batch have the bits that they have alone."""
    net, tabs = config.network(), feature_tables(CPU)
    images = np.stack([picture(32, seed).transpose(2, 0, 1) for seed in range(4)])
    count, mask = Batches(config, images, images[:0], [2]).known(images)
    tensors = [torch.from_numpy(a) for a in (images, mask, count)]
    with torch.no_grad():
        together = bits_of_unknown(net, *tensors, tabs, False, [0, 1])
        for stage in (0, 1):
            part = slice(2 * stage, 2 * stage + 2)
            alone = bits_of_unknown(net, *(t[part] for t in tensors), tabs, False, [stage])
            assert torch.allclose(together[part], alone, rtol=1e-4)


def test_the_papers_size_takes_a_step():
    config = ArdmConfig.load(CONFIGS / "paper-full.toml")
    net = config.network()
    assert len(config.dilations) == 64
    first, blocks = 9 * inputs.INPUTS * 256 + TIMES * 256, 64 * (2 * 9 * 256 * 256 + TIMES * 256 + 256)
    last, head = 256 * 256 + 256, 3 * 3 * config.components * (256 + 1)
    assert sum(p.numel() for p in net.parameters()) == first + blocks + last + head == 75_970_574
    optimiser = torch.optim.SGD(net.parameters(), lr=1e-3)
    image = torch.from_numpy(picture(32, 1).transpose(2, 0, 1)[None, :, :6, :6].copy())
    mask = torch.rand(image.shape) < 0.5
    before = net.convs[77].weight.detach().clone()
    bits = bits_of_unknown(net, image, mask, mask.sum()[None], feature_tables(CPU), False, [0])
    bits.mean().backward()
    optimiser.step()
    assert torch.isfinite(bits).all()
    assert not torch.equal(net.convs[77].weight, before)
