"""Shared by the tests: a hypothesis profile, the shipped model, a back end, and generic checks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import settings

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
