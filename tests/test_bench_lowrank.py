"""Changes of weights: those of an image's own, and those that images share."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from ardmzip import changes
from ardmzip.fitting.backward import Trunk
from bench import learned, lowrank, search
from bench.lowrank import Atoms, Fitted

EXPERT = 4


def planes(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    ramp = np.add.outer(np.arange(150), np.arange(90)) % 200
    return (ramp + rng.normal(0, 4, (3, 150, 90))).clip(0, 255).astype(np.uint8)


@pytest.fixture
def fitted(photo):
    (pixels,) = learned.pixels([planes(5)], photo, [EXPERT])[EXPERT]
    return Fitted(photo, EXPERT, pixels.samples)


def test_layers_in_floating_point_are_those_of_the_codec(fitted, photo, cpu):
    x = torch.from_numpy(fitted.samples.inputs)
    exact = Trunk(photo.on(torch.device("cpu"))[0][EXPERT], cpu).forward(x)
    assert all(torch.equal(a, b) for a, b in zip(fitted.trunk.forward(x), exact, strict=True))


def test_gradients_tell_what_changes_change(fitted):
    n, gradients = next(fitted.gradients())
    for layer, gradient in enumerate(gradients):
        bits = []
        for sign in (-1, 1):
            deltas = [torch.zeros_like(own) for own in gradients]
            # a layer's output changes by about a unit
            deltas[layer] = -sign * 0.02 * gradient / gradient.abs().max()
            fitted.trunk.change(deltas)
            bits.append(next(fitted.coding.run(n))[0])
        found = float(0.04 * gradient.square().sum() / gradient.abs().max())
        assert (bits[0] - bits[1]) / n == pytest.approx(found, rel=0.3)


@pytest.mark.parametrize("kind", ["products", "directions", "atoms"])
def test_changes_save_bits(fitted, kind, monkeypatch):
    monkeypatch.setattr(lowrank, "ATOMS", 2)
    before = fitted.bits()
    _, gradients = next(fitted.gradients())
    leading = [torch.svd_lowrank(own, 4) for own in gradients]
    if kind == "products":
        change = lowrank.products(fitted, 1)
    elif kind == "directions":
        change = lowrank.directions(fitted, [v.t() for _, _, v in leading], 2)
    else:
        change = Atoms([u.t()[:2] for u, _, _ in leading], [v.t()[:2] / 10 for _, _, v in leading]).change(fitted)
    change.fit(fitted)
    whole = change.whole()
    assert any(steps.any() for steps in whole)
    assert all(steps.abs().max() <= changes.STEP_MAX for steps in whole)
    assert fitted.bits() < before
    assert change.cost() > 0


def test_no_steps_change_nothing(fitted):
    before, change = fitted.bits(), lowrank.products(fitted, 2)
    fitted.trunk.change(change._add(change.whole()))
    assert fitted.bits() == before


def test_atoms_learn_what_crops_have_in_common(photo, monkeypatch):
    """Crops of two kinds, whose layers are changed in one way or the opposite one by a hidden coefficient: what is
    trained must tell them apart."""
    monkeypatch.setattr(lowrank, "ATOMS", 4)
    crops = [planes(seed)[:, :, ::-1] if seed % 2 else 255 - planes(seed) for seed in range(4)]
    images = [Fitted(photo, EXPERT, crop.samples) for crop in learned.pixels(crops, photo, [EXPERT])[EXPERT]]
    shared = lowrank.measure_directions(images)
    assert [v.shape[1] for v in shared] == [weight.shape[1] for weight in images[0].trunk.trained]
    atoms, weights = lowrank.learn_atoms(images, shared, 2.0, base=False)
    assert all(torch.equal(a, b) for a, b in zip(weights, images[0].trunk.trained, strict=True))
    assert any(u.any() for u in atoms.outputs)
    none, moved = lowrank.learn_atoms(images, None, 1.0, base=True)
    assert none is None
    assert not torch.equal(moved[0], weights[0])


def test_the_table(tmp_path, monkeypatch, capsys):
    for name, value in {"CROPS": 4, "MEASURED": 3, "PASSES": 1, "ATOMS": 4}.items():
        monkeypatch.setattr(lowrank, name, value)
    monkeypatch.setattr(search, "PHOTOGRAPHS", 1)
    rng = np.random.default_rng(0)
    for i in range(3):
        Image.fromarray(rng.integers(100, 130, (150, 150, 3), np.uint8)).save(tmp_path / f"{i}.png")
    config = tmp_path / "c.toml"
    config.write_text(f'name = "tiny"\ndata = ["{tmp_path}"]\ncrop = 128\n')
    assert lowrank.main([str(config), "--experts", "0", "--minutes", "0.01"]) == 0
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in capsys.readouterr().out.splitlines()[2:]]
    assert [row[2] for row in rows[::2]] == [
        "biases", "1 products", "4 products", "4 directions", "16 directions", "start as it ends", "16 starts",
        "64 starts", "atoms", "base and atoms, unchanged", "base and atoms", "base, unchanged",
    ]  # fmt: skip
    assert all(row[1] == ("plain", "processed")[i % 2] for i, row in enumerate(rows))
    assert lowrank.main([str(config), "--experts", "0", "--minutes", "0.01", "--images", str(tmp_path / "0.png")]) == 0
    assert "| given | atoms |" in capsys.readouterr().out
