"""Changes in directions that images share."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from ardmzip import changes, model, network
from ardmzip.fitting.fit import Coding
from bench import learned, search, shared

EXPERT = 4


@pytest.fixture(scope="module")
def coder():
    photo = model.load("photo")
    rng = np.random.default_rng(5)
    planes = (np.add.outer(np.arange(150), np.arange(90)) % 200 + rng.normal(0, 4, (3, 150, 90))).astype(np.uint8)
    ((samples, _),) = learned.pixels([planes], photo, [EXPERT])[EXPERT]
    return Coding(photo, network.backend("cpu"), EXPERT, samples), shared.Biases(photo, EXPERT), len(samples)


def test_a_gradient_tells_what_steps_change(coder):
    coding, biases, count = coder
    trained = coding.trunk.biases
    (slope, pixels), *_ = shared.gradients(coding, count)
    before = next(coding.run(pixels))[0]
    steps = -0.5 * slope / np.abs(slope).max()
    coding.trunk.biases = biases.moved(steps)
    after = next(coding.run(pixels))[0]
    coding.trunk.biases = trained
    assert pixels < count
    share = (before - after) / (pixels * -(slope @ steps))
    assert 0.25 < share < 1.25  # less than told, as the slope falls on the way


def test_coefficients_save_bits(coder):
    coding, biases, count = coder
    assert shared.directions([(coding, count)] * 2, 1).shape == (1, 768)
    slope = shared.gradients(coding, count)[0][0]
    basis = -slope[None] / np.abs(slope).max()
    trained = coding.trunk.biases
    before = coding.bits(trained)
    z = shared.send(coding, biases, basis, count)
    assert np.array_equal(z * shared.QUARTERS, np.rint(z * shared.QUARTERS))
    assert coding.bits(biases.moved(z @ basis)) < before
    coding.trunk.biases = trained


def test_no_steps_leave_the_biases(coder):
    coding, biases, _ = coder
    same = biases.moved(np.zeros(768))
    assert all(np.array_equal(a, b) for a, b in zip(same, coding.trunk.biases, strict=True))
    assert changes.STEP_MAX == shared.MOST


def test_the_table(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(shared, "CROPS", 4)
    monkeypatch.setattr(shared, "PASSES", 1)
    monkeypatch.setattr(search, "PHOTOGRAPHS", 1)
    rng = np.random.default_rng(0)
    for i in range(3):
        Image.fromarray(rng.integers(100, 130, (150, 150, 3), np.uint8)).save(tmp_path / f"{i}.png")
    config = tmp_path / "c.toml"
    config.write_text(f'name = "tiny"\ndata = ["{tmp_path}"]\ncrop = 128\n')
    assert shared.main([str(config), "--experts", "0", "--coefficients", "2"]) == 0
    rows = [line.split("|")[1:-1] for line in capsys.readouterr().out.splitlines()[2:]]
    assert [[cell.strip() for cell in row[:2]] for row in rows] == [["0", "plain"], ["0", "processed"]]
    for row in rows:
        free, paid = (float(row[i].strip().removesuffix(" %")) for i in (4, 5))
        assert 0 <= paid <= max(free, 0)
