"""A training run of a few seconds: it learns, resumes, and its export is the network that was trained."""

from __future__ import annotations

import copy
import itertools
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ardmzip import codec, features, mixture, model, network
from ardmzip.container import pack, unpack
from ardmzip.errors import ArdmError
from ardmzip.likelihood import code_length
from ardmzip.training import ardm
from ardmzip.training import export as exports
from ardmzip.training import net as nets
from ardmzip.training.data import CropConfig, crop_stream
from ardmzip.training.train import (
    Run,
    TrainConfig,
    data_split,
    resume,
    train,
    validate,
    validation_bank,
    validation_crops,
)

CPU = torch.device("cpu")
ROOT = Path(__file__).parent.parent.parent


def picture(seed: int, height: int = 280, width: int = 300) -> np.ndarray:
    """Smooth waves, edges and some noise: uint8 [height, width, 3]."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width].astype(float)
    planes = []
    shared = 50 * np.sin(y / rng.uniform(9, 30)) + 40 * np.sign(np.sin(x / 40 + y / 60 + seed))
    for c in range(3):
        planes.append(128 + shared + 20 * np.cos(x / (11 + 2 * c) - c) + rng.normal(0, 1, (height, width)))
    return np.rint(np.stack(planes, -1)).clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> TrainConfig:
    folder = tmp_path_factory.mktemp("images")
    for seed in range(5):
        Image.fromarray(picture(seed)).save(folder / f"{seed}.png")
    return TrainConfig(
        "tiny", [str(folder)], hidden=[32, 32], components=3, minutes=0.15, quantised_share=0.4, learning_rate=0.02,
        batch=[200, 80], slots=8, samples_per_crop=20000, average=0.95,
    )  # fmt: skip


@pytest.fixture(scope="module")
def runs(config, tmp_path_factory):
    """The run when it was stopped, as its checkpoint had it then, and when it had used up its budget."""
    folder, threads = tmp_path_factory.mktemp("run"), torch.get_num_threads()
    stopped = train(config, folder, stop_after=0.06)
    resumed = Run(config, folder)
    resumed.load()
    finished = train(config, folder)
    assert torch.get_num_threads() == threads
    return stopped, resumed, finished


@pytest.fixture(scope="module")
def bank(config, runs):
    paths = sorted(map(str, Path(config.data[0]).iterdir()))
    return validation_bank(validation_crops(paths, config.crops), runs[0])


@pytest.fixture(scope="module")
def exported(runs, tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "tiny.safetensors"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exports, "BANK_LEVELS", 3)  # losses of three levels instead of eight
        card = exports.export(runs[-1], path, samples=60, images=1, crops=3)
    return path, card


def test_loss_falls(config, runs, bank, tmp_path):
    untrained = Run(config, tmp_path).net
    stopped, _, finished = runs
    before, half, after = (validate(net, bank, False, 500) for net in (untrained, stopped.average, finished.average))
    # the run is a few seconds of a time budget: how far it gets depends on the machine
    assert half < before
    assert after < before
    assert validate(finished.average, bank, True, 500) < 1.03 * after


def test_checkpoint_of_another_size_is_refused(config, runs, tmp_path):
    other = replace(config, hidden=[32, 16], start=str(runs[0].checkpoint))
    with pytest.raises(ArdmError, match="another size"):
        Run(other, tmp_path).start()
    Run(config, tmp_path).save()
    with pytest.raises(ArdmError, match="another size"):
        Run(replace(config, components=4), tmp_path).load()


def test_resumes_where_it_stopped(config, runs):
    stopped, resumed, finished = runs
    assert 0 < stopped.step == resumed.step < finished.step
    assert not stopped.finished
    assert finished.finished
    assert 0.06 * 60 <= stopped.seconds == resumed.seconds < finished.seconds
    assert finished.seconds >= config.minutes * 60
    assert stopped.samples == resumed.samples < finished.samples
    for part in ("net", "average"):
        one, two = getattr(stopped, part).state_dict(), getattr(resumed, part).state_dict()
        assert all(torch.equal(one[name], two[name]) for name in one)
    one, two = stopped.optimiser.state_dict()["state"], resumed.optimiser.state_dict()["state"]
    assert all(torch.equal(one[i][name], two[i][name]) for i in one for name in one[i])
    np.testing.assert_array_equal(stopped.mean, finished.mean)
    np.testing.assert_array_equal(stopped.std, finished.std)


def test_log(config, runs):
    stopped, _, finished = runs
    lines = [json.loads(line) for line in (finished.folder / "log.jsonl").read_text().splitlines()]
    starts = [line for line in lines if line.get("event") == "start"]
    assert [line["step"] for line in starts] == [0, stopped.step]
    assert starts[0]["config"]["hidden"] == [32, 32]
    assert (starts[0]["training"], starts[0]["held_out"]) == (4, 1)
    ends = [line for line in lines if line.get("event") == "end"]
    assert [line["quantised"] for line in ends] == [False, True] * 2
    assert ends[-1]["step"] == finished.step


def test_nothing_left_to_do(config, runs):
    again = train(config, runs[-1].folder)
    assert again.finished
    assert again.step == runs[-1].step


def integer_outputs(loaded, expert: int, x: torch.Tensor) -> torch.Tensor:
    backend = network.backend("cpu", "float64", False)
    integers = loaded.on(CPU)[0][expert]
    return backend.head(integers, backend.trunk(integers, x))


def test_integers_are_the_fake_quantised_network(runs, bank, exported):
    """With biases and head on the integers' grid too, only the head's outputs are rounded."""
    loaded = model.load(exported[0])
    net = copy.deepcopy(runs[-1].average).double()
    rng = np.random.default_rng(0)
    for e, expert in enumerate(net.experts):
        with torch.no_grad():
            for i, (weight, bias) in enumerate(zip(expert.weights, expert.biases, strict=True)):
                unit = (nets.INPUT_SHIFT if i == 0 else nets.ACTIVATION_SHIFT) + nets.weight_exponent(weight)[:, 0]
                bias.copy_((bias * torch.exp2(unit)).round() / torch.exp2(unit))
            expert.head.copy_((expert.head * 2**11).round() / 2**11)
            expert.head_bias.copy_((expert.head_bias * 2**15).round() / 2**15)
            s = bank.sample(e, 400, rng, masked=0.3)
            real = expert(s.x.double() / 32, True)
        np.testing.assert_array_equal(integer_outputs(loaded, e, s.x), torch.floor(256 * real + 0.5))


def test_integer_code_length(runs, bank, exported):
    """What the coder spends is what quantisation-aware training counted, within 0.5 %."""
    loaded = model.load(exported[0])
    _, tables = loaded.on(CPU)
    rng = np.random.default_rng(1)
    counted, spent = [], []
    for e, expert in enumerate(runs[-1].average.experts):
        s = bank.sample(e, 1500, rng, masked=0.1)
        with torch.no_grad():
            counted.append(code_length(expert(s.x.float() / 32, True), s.target, s.centre, s.scale).mean().item())
        cls = (4 * torch.log2(s.scale) + 4).round().to(torch.uint8)
        m = mixture.mixture(integer_outputs(loaded, e, s.x), (64 * s.centre).round().int(), cls, tables)
        _, high, _, low = mixture.intervals(m, s.target.to(torch.uint8))
        spent.append((48 - torch.log2(high.double()) - torch.log2(low.double())).mean().item())
    assert sum(spent) == pytest.approx(sum(counted), rel=0.005)
    assert spent == pytest.approx(counted, rel=0.02)


def test_exported_model_codes(exported, check_codec, cpu):
    loaded = model.load(exported[0])
    image = picture(9)[50:120, 60:200]
    for planes in (image.transpose(2, 0, 1), image[:30, :41, :1].transpose(2, 0, 1)):
        for steps in (None, 3):
            file = check_codec(
                lambda data, steps=steps: pack(codec.encode(data, loaded, cpu, steps)),
                lambda file: codec.decode(unpack(file), loaded, cpu),
                np.ascontiguousarray(planes),
            )
    file = pack(codec.encode(np.ascontiguousarray(image.transpose(2, 0, 1)), loaded, cpu))
    assert 8 * len(file) < 7 * image.size  # even a few seconds of training are better than no model


def test_exported_file(config, runs, exported):
    path, card = exported
    loaded = model.load(path)
    assert loaded.name == "tiny"
    # what depends on the training data's place is not published
    assert str(Path(config.data[0]).parent) not in json.dumps(loaded.card)
    assert card["training"]["steps"] == runs[-1].step
    assert card["parameters"] == sum(p.numel() for p in runs[-1].net.parameters())
    figures = card["validation"]
    assert figures["quantised_bits_per_subpixel"] == pytest.approx(figures["float_bits_per_subpixel"], rel=0.03)
    assert 0 < figures["files"]["bits_per_subpixel"] < 8
    assert json.loads(model.read_metadata(path)["card"]) == card
    for channels, table in loaded.loss.items():
        atoms = 3 * channels * 3
        assert table.shape == (atoms, atoms)
        assert np.isfinite(table[np.triu_indices(atoms)]).all()
        assert table[0, atoms - 1] > table[atoms - 1, atoms - 1]  # knowing less costs more
    layers = [f"{i}.{part}" for i in (0, 1) for part in ("weight", "bias", "shift")] + ["head.weight", "head.bias"]
    names = {f"expert.{e}.{layer}" for e in range(features.EXPERTS) for layer in layers}
    names |= {f"learning.{e}.{part}" for e in range(features.EXPERTS) for part in ("basis", "mix", "rate")}
    assert set(loaded.tensors) == names | {f"table.{name}" for name in exports.tables.build()}
    assert len(loaded.learning_gain) == exports.CURVE_POINTS


def test_loss_table_of_small_images(config, runs, tmp_path):
    """Images that lack the coarsest levels, such as CIFAR's, must not leave holes in the table."""
    Image.fromarray(picture(0)[:32, :32]).save(tmp_path / "small.png")
    crops = validation_crops([str(tmp_path / "small.png")], config.crops)
    small = validation_bank(crops, runs[0])
    table = exports.loss_table(runs[-1].average, small, 1, samples=5)
    assert np.isfinite(table[np.triu_indices(len(table))]).all()


def test_export_again_is_seen(runs, exported):
    """A model file that is replaced is not taken from a cache."""
    path, card = exported
    assert model.load(path).card == card


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('name = "x"\ndata = []\nlearning = 3', "learning"),
        ("minutes = 3", "name"),
        ("name = ", "line 1|Invalid"),
    ],
)
def test_bad_configs(tmp_path, text, message):
    path = tmp_path / "x.toml"
    path.write_text(text)
    with pytest.raises(ArdmError, match=message) as caught:
        TrainConfig.load(path)
    assert str(path) in str(caught.value)


def test_missing_config(tmp_path):
    with pytest.raises(ArdmError, match=re.escape("no.toml")):
        TrainConfig.load(tmp_path / "no.toml")


def test_shipped_configs():
    folder = ROOT / "configs"
    for path in folder.glob("*.toml"):
        kind = ardm.ArdmConfig if ardm.is_random_order(path) else TrainConfig
        assert kind.load(path).name == path.stem


@pytest.mark.parametrize("count", [0, 1])
def test_too_few_images(tmp_path, count):
    for seed in range(count):
        Image.fromarray(picture(seed)).save(tmp_path / f"{seed}.png")
    config = TrainConfig("few", [str(tmp_path)], hidden=[8], slots=2, minutes=0.01)
    with pytest.raises(ArdmError, match="image"):
        train(config, tmp_path / "run")


TOGETHER = """
import sys
from pathlib import Path
from ardmzip.training.train import TrainConfig, train
train(TrainConfig.load(Path(sys.argv[1])), Path(sys.argv[2]), steps=6)
"""


def test_two_processes_train_as_one(config, tmp_path):
    """torchrun on the CPU (gloo): the same losses and weights as one process with the same global batch."""
    toml = tmp_path / "config.toml"
    toml.write_text(
        f'name = "two"\ndata = [{json.dumps(config.data[0])}]\nhidden = [16, 16]\ncomponents = 2\nminutes = 1e6\n'
        'quantised_share = 0.0\nbatch = [120, 60]\nslots = 6\nparts = 2\nsamples_per_crop = 4000\naccelerator = "cpu"\n'
    )
    program = tmp_path / "together.py"
    program.write_text(TOGETHER)
    runs = []
    for processes in (1, 2):
        folder = tmp_path / str(processes)
        launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"] * (processes > 1)
        subprocess.run(
            [sys.executable, *launch, str(program), str(toml), str(folder)],
            check=True, env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        run = Run(TrainConfig.load(toml), folder)
        run.load()
        lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
        figures = [line[key] for line in lines for key in ("loss", "validation") if key in line]
        runs.append((run, figures))
    (one, figures), (two, others) = runs
    assert one.step == two.step == 6
    assert one.samples == two.samples
    assert len(figures) == 3
    assert figures == pytest.approx(others, abs=2e-4)
    np.testing.assert_allclose(one.mean, two.mean, rtol=1e-6)
    for p, q in zip(one.net.parameters(), two.net.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-3, atol=1e-4)


def test_processes_need_parts(config, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(ArdmError, match="1 part\\(s\\) cannot be shared by 3 processes"):
        train(config, tmp_path)
    monkeypatch.delenv("WORLD_SIZE")
    with pytest.raises(ArdmError, match="unknown precision: 16"):
        train(replace(config, precision="16"), tmp_path)


def test_nothing_held_out(tmp_path):
    with pytest.raises(ArdmError, match="is held out for validation: there are too few"):
        validation_crops([], CropConfig())


def test_mixed_precision(config, tmp_path):
    run = train(replace(config, precision="bf16-mixed"), tmp_path, steps=2)
    assert run.step == 2
    assert all(torch.isfinite(p).all() and p.dtype == torch.float32 for p in run.net.parameters())


def test_starts_from_another_run(config, runs, tmp_path):
    run = resume(replace(config, start=str(runs[-1].checkpoint)), tmp_path)
    for p, q in zip(run.net.parameters(), runs[-1].average.parameters(), strict=True):
        assert torch.equal(p, q)
    assert run.step == 0
    # weights have learned what these numbers mean
    assert np.array_equal(run.mean, runs[-1].mean)
    other = replace(config, start=str(runs[-1].checkpoint), seed=7, crop=64)
    assert np.array_equal(train(other, tmp_path / "on", steps=1).std, run.std)
    run.save()
    assert resume(replace(config, start="gone.pt"), tmp_path).step == 0  # not needed any more


def test_crops_are_processed_as_told(config, tmp_path):
    """In a configuration file, probabilities and ranges by name; others are an error like any unknown key."""
    path = tmp_path / "c.toml"
    text = f'name = "gray"\ndata = {config.data}\ncrop = 32\n[augment]\nuntouched = 0\nshuffle = 0\np_gray = 1.0\n'
    path.write_text(text + 'chroma_kinds = [["nearest", 1.0]]\n')
    crops = TrainConfig.load(path).crops
    assert crops.augment.chroma_kinds == (("nearest", 1.0),)
    sources, held_out = data_split(config)
    for planes, _ in itertools.islice(crop_stream([*sources, *held_out], 0, 0, crops), 8):
        assert (planes == planes[:1]).all()
    for wrong in ("p_grey = 1.0", "p_blur = 1.1", 'p_blur = "often"', "up = 2", "up = [2, 1]", "chroma_kinds = []",
                  'chroma_kinds = [["bilinear", 1.0]]'):  # fmt: skip
        path.write_text(f"{text}{wrong}\n")
        with pytest.raises(ArdmError, match=wrong.split(" ")[0]):
            TrainConfig.load(path)
    path.write_text('name = "gray"\ndata = []\naugment = "gentle"\n')
    with pytest.raises(ArdmError, match="augment must be a table"):
        TrainConfig.load(path)


def test_codes(config, tmp_path):
    with_codes = replace(config, codes=3, minutes=0.04, quantised_share=0.5, gray=0.25)
    run = train(with_codes, tmp_path / "run", stop_after=0.02)
    first = run.net.codes.detach().clone()
    run = train(with_codes, tmp_path / "run")  # goes on with its keys and codes
    assert run.finished
    assert run.keys.keys.shape == (3, 22)
    assert not torch.equal(run.net.codes, first)  # they learn
    bank = validation_bank(validation_crops(sorted(map(str, Path(config.data[0]).iterdir())), config.crops), run)
    assert set(bank.code.tolist()) <= {0, 1, 2}
    assert not bank.side[:, 1:].any()
    tensors = exports.integer_tensors(run.average)
    rounded = torch.round(run.average.codes * 32).clamp(-127, 127)
    assert np.array_equal(tensors["side.codes"], rounded.detach().numpy())
    # what the network is told are the integers of the model file
    samples = bank.sample(1, 50, np.random.default_rng(0))
    told = run.average.inputs(1, samples)[:, features.expert_layout(1).side].detach().numpy() * 32
    assert np.array_equal(told, tensors["side.codes"][samples.code])
    # another run that starts from it has its codes, keys and all that these depend on
    started = train(replace(with_codes, start=str(run.checkpoint)), tmp_path / "next", steps=1)
    assert np.array_equal(started.keys.keys, run.keys.keys)
    assert np.array_equal(started.keys.root, run.keys.root)
    assert np.array_equal(started.mean, run.mean)
    assert np.array_equal(started.std, run.std)
    assert torch.allclose(started.net.codes, run.average.codes, atol=0.1)
