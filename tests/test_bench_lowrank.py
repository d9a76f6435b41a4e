"""Low-rank changes of weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from ardmzip import changes
from ardmzip.fitting.backward import Trunk
from bench import learned, lowrank, search
from bench.lowrank import Fitted, Products

EXPERT = 4


def planes() -> np.ndarray:
    """Noise in G whose negative R and B have, as no photograph does."""
    noise = (120 + np.random.default_rng(5).normal(0, 9, (150, 90))).clip(0, 255).astype(np.uint8)
    return np.stack([noise, 255 - noise, 255 - noise])


@pytest.fixture
def fitted(photo):
    (pixels,) = learned.pixels([planes()], photo, [EXPERT])[EXPERT]
    return Fitted(photo, EXPERT, pixels.samples)


def test_layers_in_floating_point_are_those_of_the_codec(fitted, photo, cpu):
    x = torch.from_numpy(fitted.samples.inputs)
    exact = Trunk(photo.on(torch.device("cpu"))[0][EXPERT], cpu).forward(x)
    assert all(torch.equal(a, b) for a, b in zip(fitted.trunk.forward(x), exact, strict=True))


def test_gradients_tell_what_changes_change(fitted):
    """A head that learns takes away a part of it."""
    n, gradients = next(fitted.gradients())
    for layer, gradient in enumerate(gradients):
        bits = []
        for sign in (-1, 1):
            deltas = [torch.zeros_like(own) for own in gradients]
            deltas[layer] = -sign * 0.002 * gradient / gradient.abs().max()
            fitted.trunk.change(deltas)
            bits.append(next(fitted.coding.run(n))[0])
        told = float(0.004 * gradient.square().sum() / gradient.abs().max())
        assert 0.3 * told < (bits[0] - bits[1]) / n < 1.3 * told


def test_products_save_bits(fitted):
    before = fitted.bits()
    found = Products(fitted, 1)
    fitted.trunk.change(found.deltas(found.whole()))
    assert fitted.bits() == before  # no steps yet
    found.fit(fitted)
    steps = found.whole()
    assert any(own.any() for own in steps[::2])
    assert all(own.abs().max() <= changes.STEP_MAX for own in steps)
    assert fitted.bits() < before
    assert found.cost() > 0


def test_the_table(tiny_config, monkeypatch, capsys):
    monkeypatch.setattr(lowrank, "PASSES", 1)
    monkeypatch.setattr(lowrank, "PRODUCTS", (2,))
    monkeypatch.setattr(search, "PHOTOGRAPHS", 1)
    assert lowrank.main([str(tiny_config), "--experts", "0"]) == 0
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in capsys.readouterr().out.splitlines()[2:]]
    named = [[part, name] for name in ("biases", "products: 2") for part in ("plain", "processed")]
    assert [row[:3] for row in rows] == [["G1", *each] for each in named]
    assert all(float(row[4].removesuffix(" %")) <= float(row[3].removesuffix(" %")) for row in rows)
    assert lowrank.main([str(tiny_config), "--experts", "4", "--images", str(tiny_config.with_name("0.png"))]) == 0
    assert "| R2 | given | products: 2 |" in capsys.readouterr().out
    assert lowrank.main([str(tiny_config), "--images", str(tiny_config.with_name("missing.png"))]) == 1
    assert "missing.png" in capsys.readouterr().err
    small = tiny_config.with_name("small.png")
    Image.new("RGB", (64, 63)).save(small)
    assert lowrank.main([str(tiny_config), "--images", str(small)]) == 1
    assert "small.png: not an RGB image of at least 64x64 pixels" in capsys.readouterr().err
