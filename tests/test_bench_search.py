"""The search for a network on a few small crops."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from ardmzip import features
from bench import search


def test_variants_read_no_more_than_their_window():
    lay = features.expert_layout(4)
    for name, count in (("as `photo`", lay.inputs), ("no side information", lay.inputs - 22)):
        assert search.inputs_read(search.VARIANTS[name], 4).sum() == count
    small = search.inputs_read(search.VARIANTS["5x5"], 4)
    taps = [i for plane in range(3) for i in range(lay.taps(plane))]
    assert small[: len(taps)].tolist() == [np.abs(lay.offsets[i]).max() <= 2 for i in taps]
    assert small[len(taps) :].all()


def test_the_search(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(search, "CROPS", 4)
    monkeypatch.setattr(search, "VALIDATION", 400)
    rng = np.random.default_rng(0)
    for i in range(3):
        pixels = rng.integers(100, 130, (70, 70, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
    config = tmp_path / "c.toml"
    config.write_text(f'name = "tiny"\ndata = ["{tmp_path}"]\ncrop = 64\n')
    names = ["residual", "Muon", "RAdam", "5x5"]
    assert search.main([str(config), "--seconds", "0.5", "--experts", "0", "--variants", *names]) == 0
    rows = [line.split("|")[1:-1] for line in capsys.readouterr().out.splitlines()[2:]]
    assert [row[0].strip() for row in rows] == names
    for row in rows:
        plain, processed, _ = map(float, row[1:])
        assert 4.5 < plain < 8  # noise of 30 values takes 4.9 bits
        assert 2 < processed < 9


def test_large_windows_need_a_run_of_their_own(tmp_path, capsys):
    with pytest.raises(SystemExit):
        search.main([str(tmp_path), "--variants", "9x9", "5x5"])
    assert "a run of their own" in capsys.readouterr().err
