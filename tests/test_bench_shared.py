"""Changes in directions that images share."""

from __future__ import annotations

import numpy as np
import pytest

from ardmzip import changes
from ardmzip.fitting.fit import Coding
from bench import learned, search, shared

EXPERT = 4


@pytest.fixture(scope="module")
def coding(photo, cpu):
    rng = np.random.default_rng(5)
    planes = (np.add.outer(np.arange(150), np.arange(90)) % 200 + rng.normal(0, 4, (3, 150, 90))).astype(np.uint8)
    (pixels,) = learned.pixels([planes], photo, [EXPERT])[EXPERT]
    return Coding(photo, cpu, EXPERT, pixels.samples)


def test_gradients_tell_what_steps_change(coding):
    biases, trained = shared.Biases(coding), coding.trunk.biases
    (slope, *_), (count, *_) = shared.batch_gradients(coding)
    steps = -0.5 * slope / np.abs(slope).max()
    bits = []
    for sign in (-1, 1):
        coding.trunk.biases = biases.after(sign * steps)
        bits.append(next(coding.run(count))[0])
    coding.trunk.biases = trained
    assert count < len(coding.samples)
    assert (bits[0] - bits[1]) / (-2 * count * (slope @ steps)) == pytest.approx(1, abs=0.2)


def test_directions_in_which_crops_differ():
    """One planted direction, in correlated noise: it comes first, with the size of its Newton steps."""
    rng = np.random.default_rng(0)
    root = rng.normal(0, 1, (6, 6)) + 3 * np.eye(6)  # of the variance of a pixel's gradient
    planted, pixels = rng.normal(0, 1, 6), np.full(8, 2048)
    crops = []
    for size in rng.normal(0, 0.05, 400):
        noise = rng.normal(0, 1, (8, 6)) / np.sqrt(2048)
        crops.append(((size * planted + noise) @ root.T, pixels))
    first, second = shared.directions(crops, 2)
    wanted = 0.05 * planted @ np.linalg.inv(root) / np.log(2)
    assert abs(first @ wanted) / np.linalg.norm(first) / np.linalg.norm(wanted) > 0.97
    assert np.linalg.norm(first) == pytest.approx(np.linalg.norm(wanted), rel=0.25)  # damped
    assert np.linalg.norm(second) < 0.2 * np.linalg.norm(first)


def test_coefficients_save_bits(coding):
    biases, trained = shared.Biases(coding), coding.trunk.biases
    slope = shared.batch_gradients(coding)[0][0]
    basis = -slope[None] / np.abs(slope).max()
    before = shared.code_length(coding, trained)
    z = shared.fit_coefficients(coding, biases, basis)
    assert np.array_equal(z * shared.QUARTERS, np.rint(z * shared.QUARTERS))
    assert shared.code_length(coding, biases.after(z @ basis)) < before
    coding.trunk.biases = trained


def test_steps_are_those_of_changes(coding, photo):
    biases, rng = shared.Biases(coding), np.random.default_rng(1)
    steps = [rng.integers(-3, 4, len(bias)).astype(np.int8) for bias in coding.trunk.biases]
    named = {f"{EXPERT}.{i}": own for i, own in enumerate(steps)}
    changed = changes.apply(changes.Changes(named), photo)
    found = biases.after(np.concatenate(steps).astype(float))
    assert all(np.array_equal(bias, changed.tensors[f"expert.{EXPERT}.{i}.bias"]) for i, bias in enumerate(found))


def test_the_table(tiny_config, monkeypatch, capsys):
    monkeypatch.setattr(shared, "CROPS", 4)
    monkeypatch.setattr(shared, "PASSES", 1)
    monkeypatch.setattr(search, "PHOTOGRAPHS", 1)
    assert shared.main([str(tiny_config), "--experts", "0", "--coefficients", "2"]) == 0
    rows = [line.split("|")[1:-1] for line in capsys.readouterr().out.splitlines()[2:]]
    assert [[cell.strip() for cell in row[:2]] for row in rows] == [["G1", "plain"], ["G1", "processed"]]
    for row in rows:
        shares = [float(cell.strip().removesuffix(" %")) for cell in row[2:]]
        assert all(0 <= paid <= max(0, free) for free, paid in zip(shares[::2], shares[1::2], strict=True))
