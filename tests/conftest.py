"""Shared by the tests: a hypothesis profile, the shipped model, a back end, and generic checks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from PIL import Image

# Machines are shared and numba compiles at the first call, so no example has a deadline.
settings.register_profile("ardmzip", deadline=None, print_blob=True)
settings.load_profile("ardmzip")


@pytest.fixture(scope="session")
def photo():
    """The shipped model."""
    from ardmzip import model

    return model.load("photo")


@pytest.fixture(scope="session")
def cpu():
    """The back end that a CPU takes by itself."""
    from ardmzip import network

    return network.backend("cpu")


@pytest.fixture
def tiny_config(tmp_path):
    """A configuration of a training run on three images of noise, which lie beside it as ``0.png`` to ``2.png``."""
    rng = np.random.default_rng(0)
    for i in range(3):
        Image.fromarray(rng.integers(100, 130, (150, 150, 3), np.uint8)).save(tmp_path / f"{i}.png")
    path = tmp_path / "c.toml"
    path.write_text(f'name = "tiny"\ndata = ["{tmp_path}"]\ncrop = 128\n')
    return path


def _same(one: Any, two: Any) -> bool:
    if isinstance(one, list | tuple):
        return len(one) == len(two) and all(map(_same, one, two))
    if isinstance(one, np.ndarray):
        return one.dtype == two.dtype and one.shape == two.shape and np.array_equal(one, two)
    return one == two


@pytest.fixture(scope="session")
def check_codec() -> Callable:
    """What every codec must do, whatever it codes (after ``check_codec`` of craystack, Townsend et al. 2020)."""

    def check(push: Callable, pop: Callable, data: Any) -> Any:
        """``push(data)`` gives a message, always the same, and ``pop(message)`` the data; returns the message."""
        message = push(data)
        assert _same(push(data), message), "coding the same data twice gave two messages"
        for _ in range(2):
            assert _same(pop(message), data), "the message does not decode to the data"
        return message

    return check


@pytest.fixture(scope="session")
def level_array() -> Callable:
    """The level array (features.py) of an image of which only the base and the first atoms are known."""

    def build(planes: np.ndarray, order, level: int, known_atoms: int) -> np.ndarray:
        """planes: uint8 [channels, height, width]; int16 [rows + 6, columns + 6, 3]."""
        view = np.full((*planes.shape[1:], 3), -1, np.int16)
        view[:, :, : len(planes)] = planes.transpose(1, 2, 0)
        for finer in range(level):
            view = view[order.known(finer)]
        array = np.full((view.shape[0] + 6, view.shape[1] + 6, 3), -1, np.int16)
        inner = array[3:-3, 3:-3]
        inner[:] = view
        index = {atom: i for i, atom in enumerate(order.atoms)}
        for coarser in range(level, order.levels):
            for atom in order.atoms:
                if atom.level == coarser and index[atom] >= known_atoms:
                    inner[order.lattice(coarser, atom.kind)][:, :, atom.channel] = -1
            inner = inner[order.known(coarser)]
        return array

    return build


@pytest.fixture(scope="session")
def random_integers() -> Callable:
    """Integers of a tiny model that codes in a random order (ardm/model.py), by branching and parametrisation."""
    from ardmzip import tables
    from ardmzip.ardm import inputs, order
    from ardmzip.ardm.order import digits

    def build(branching: int, direct: bool) -> dict[str, np.ndarray]:
        """A tiny network with random weights and wide distributions, as the integers of a model."""
        rng = np.random.default_rng(0)
        stages, times, width = len(digits(branching)), 4, 8
        layers = np.array([(3, 1), (3, 2), (1, 1), (1, 1)], np.int32)
        tensors = {f"table.{name}": table for name, table in {**tables.build(), **inputs.build()}.items()}
        before = inputs.INPUTS
        for i, (kernel, _) in enumerate(layers):
            rows = times * stages if i < 2 else 1
            tensors[f"conv.{i}.weight"] = rng.integers(-40, 41, (width, kernel * kernel * before)).astype(np.int8)
            tensors[f"conv.{i}.bias"] = rng.integers(-900, 900, (rows, width)).astype(np.int32)
            tensors[f"conv.{i}.shift"] = rng.integers(5, 8, width).astype(np.int32)
            before = width
        outputs = branching if direct else 6  # two components
        tensors["head.weight"] = rng.integers(-60, 60, (3 * outputs, width)).astype(np.int16)
        bias = np.zeros((3, outputs), np.int32) if direct else np.tile(np.int32([0, 0, 0, 0, 1, 2]) << 15, (3, 1))
        tensors["head.bias"] = bias.ravel().astype(np.int32)
        tensors |= {"layers": layers, "form": np.array([branching, direct, times], np.int32)}
        steps = np.arange(order.CHANNELS * order.SIDE**2)
        tensors["loss"] = np.stack([400000 - 60 * steps - 9000 * s for s in range(stages)]).astype(np.int32)
        return tensors

    return build
