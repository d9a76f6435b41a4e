"""The fuzz target itself, and a short run of it."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from fuzz import containers as fuzz

import ardmzip
from ardmzip.container import is_short

ROOT = Path(ardmzip.__file__).parent.parent


@pytest.fixture(scope="module")
def known() -> list[fuzz.Seed]:
    return fuzz.seeds()


def test_short_run():
    command = [sys.executable, "-m", "tests.fuzz.containers", "--count", "4000", "--seed", "7"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, timeout=600, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    counts = {tuple(line.split()[:2]): int(line.split()[2]) for line in done.stdout.splitlines()[:-1]}
    assert sum(counts.values()) == 4000
    assert counts["shallow", "FormatError"] > 2700
    assert counts["shallow", "exact"] > 10  # parts that lie elsewhere than the damage
    assert counts["shallow", "CutOffError"] > 100  # parts that need more
    assert counts["deep", "FormatError"] > 500
    assert counts["deep", "ModelError"] > 10
    assert counts["deep", "exact"] > 1
    assert re.match(r"4000 mutants, 0 failures, \d+ executions/s", done.stdout.splitlines()[-1])


def test_parts_of_seeds_join_to_the_seeds(known):
    """Or changes of fields would only ever reach the parser."""
    kinds = set()
    for one in known:
        parts = fuzz.take_apart(one.data)
        assert parts.join() == one.data
        parts.seal()
        assert parts.join() == one.data
        assert (parts.height, parts.width) == one.samples.shape[:2]
        kinds |= {kind for body in parts.bodies() for kind, _ in body.chunks}
    assert kinds == set(fuzz.KINDS)


def test_seeds_of_tiles_and_levels_decode_in_part(known):
    names = {"tiles", "tiles-stored", "tiles-alpha", "tiles-deep", "levels", "levels-stored"}
    assert names <= {one.name for one in known}
    for one in known:
        for part in (fuzz.Part(level=1), fuzz.Part(level=4), fuzz.Part(region=(0, 0, 1, 1))):
            assert fuzz.restored(one.data, part) == one.part(part)


def test_mutants_are_what_they_claim(known):
    mutants = [fuzz.mutant(known, 1, number) for number in range(2000)]
    assert mutants == [fuzz.mutant(known, 1, number) for number in range(2000)]
    assert 0.15 < sum(m.deep for m in mutants) / len(mutants) < 0.25
    files = {one.data for one in known}
    for m in mutants:
        assert m.data not in files
        if m.deep and not is_short(m.data):
            assert fuzz.checked(fuzz.unchecked(m.data)) == m.data
    hows = Counter((m.deep, m.how) for m in mutants)
    wanted = {change.__name__ for change in (*fuzz.BYTES, fuzz.splice)}
    assert {how for deep, how in hows if not deep} == wanted
    assert {how for deep, how in hows if deep} == wanted | {change.__name__ for change in (*fuzz.FIELDS, fuzz.cross)}


def test_failures_are_noticed(known):
    found = known[0].samples
    good = fuzz.Mutant(known[0].data, True, "", (found,))
    wrong = replace(found, raster=bytes(len(found.raster)))
    reshaped = replace(found, shape=(found.shape[1], found.shape[0], found.shape[2]))

    def fail(error: BaseException):
        def decompress(_data: bytes, _part: fuzz.Part) -> fuzz.Samples:
            raise error

        return decompress

    assert fuzz.outcome(good, fuzz.restored) == fuzz.EXACT
    assert fuzz.outcome(good, lambda data, part: wrong) == "wrong pixels"
    assert fuzz.outcome(good, lambda data, part: reshaped) == fuzz.RESHAPED
    shallow = replace(good, deep=False)
    assert fuzz.outcome(shallow, lambda data, part: reshaped) == "wrong pixels"
    assert fuzz.outcome(good, fail(ardmzip.OptionError("line"))) == "OptionError: line"
    assert (
        fuzz.outcome(replace(good, part=fuzz.Part(region=(0, 0, 1, 1))), fail(ardmzip.OptionError("line")))
        == fuzz.OPTION
    )
    assert fuzz.outcome(good, fail(ardmzip.FormatError("line"))) == fuzz.FORMAT
    assert fuzz.outcome(good, fail(ardmzip.FormatError("two\nlines"))).startswith("not one clear line")
    assert fuzz.outcome(good, fail(ardmzip.ImageError("line"))) == "ImageError: line"
    assert fuzz.outcome(good, fail(MemoryError("much"))) == "MemoryError: much"


@pytest.mark.skipif(sys.platform == "win32", reason="needs alarms")
def test_slow_mutants_are_noticed(monkeypatch):
    monkeypatch.setattr(fuzz, "SECONDS", 0.05)
    work = fuzz.limited(lambda data, part: time.sleep(30))
    assert fuzz.outcome(fuzz.Mutant(b"", False, "", ()), work).startswith("TooSlow")
