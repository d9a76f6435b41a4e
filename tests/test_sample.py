"""Pictures drawn from models: repeatable, the same on all back ends, and as the distributions say."""

from __future__ import annotations

import io

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from ardmzip import cli, network, sample
from ardmzip import model as models
from ardmzip.ardm import model as random_order


@pytest.fixture(scope="module")
def tiny(tmp_path_factory, random_integers):
    path = tmp_path_factory.mktemp("models") / "up4.safetensors"
    random_order.save(path, "up4", random_integers(4, False), {})
    return path


def test_digits_are_drawn_as_often_as_their_intervals_are_wide():
    edges = np.broadcast_to(np.array([0, 2**22, 2**22 + 2**23, 2**24]), (20000, 4))
    found = np.bincount(sample.drawn(edges, np.random.default_rng(1)), minlength=3) / 20000
    assert np.allclose(found, [1 / 4, 1 / 2, 1 / 4], atol=0.02)


@pytest.mark.parametrize("name", ["tiny", "photo"])
def test_the_same_seed_draws_the_same_pictures_everywhere(name, tiny):
    model = models.load(tiny if name == "tiny" else name)
    found = [
        sample.samples(model, network.backend("cpu", product, numba), 2, 9, 16, seed)[-1]
        for product, numba, seed in (("auto", None, 5), ("float64", False, 5), ("auto", None, 6))
    ]
    assert found[0].shape == (2, 3, 9, 9)
    assert np.array_equal(found[0], found[1])
    assert not np.array_equal(found[0], found[2])
    assert not np.array_equal(found[0][0], found[0][1])


@pytest.mark.parametrize("name", ["tiny", "photo"])
def test_frames_end_with_the_picture(name, tiny):
    model = models.load(tiny if name == "tiny" else name)
    backend = network.backend("cpu")
    frames = sample.samples(model, backend, 2, 8, 20, 1, frames=True)
    assert np.array_equal(frames[-1], sample.samples(model, backend, 2, 8, 20, 1)[-1])
    assert np.array_equal(frames[-2], frames[-1])  # after the last call all is known
    assert not np.array_equal(frames[0], frames[-1])
    with Image.open(io.BytesIO(sample.to_png(frames))) as image:
        image.seek(image.n_frames - 1)
        assert np.array_equal(np.asarray(image.convert("RGB")), sample.grid(frames[-1]))


def test_the_command(tiny, tmp_path):
    def run(*args: object) -> object:
        return CliRunner().invoke(cli.main, ["sample", "-m", str(tiny), *map(str, args)])

    out = tmp_path / "grid.png"
    assert run("-n", 3, "--steps", 8, "--side", 6, "-o", out).exit_code == 0
    assert Image.open(out).size == (14, 14)
    again = run("-n", 3, "-o", out)
    assert again.exit_code == 1
    assert "grid.png" in again.output
    assert run("-n", 3, "-o", tmp_path / "grid.jpg").exit_code == 2
    assert run("--steps", 3, "-o", tmp_path / "b.png").exit_code == 1
    assert not (tmp_path / "b.png").exists()
