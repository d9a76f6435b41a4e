"""The examples in docstrings, so that they run with the other tests."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

import ardmzip
import bench

MODULES = [
    module.name
    for package in (ardmzip, bench)
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
    if not module.name.endswith("__main__")
]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] in ("ardmzip", "bench"):
            raise
        pytest.skip(f"{error.name} is not installed")
    assert doctest.testmod(module).failed == 0
