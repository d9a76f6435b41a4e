"""The search for a network on a few small crops."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from ardmzip import features, model, network
from ardmzip.fitting.fit import Coding
from ardmzip.image import to_planes
from bench import further, learned, search

#: Planes of a photograph-like image: smooth, with noise.
PLANES = to_planes(
    (
        np.add.outer(np.arange(64), np.arange(90))[:, :, None] * [1, 1.2, 0.8]
        + np.random.default_rng(3).normal(0, 3, (64, 90, 3))
    ).astype(np.uint8)
)


def test_variants_read_no_more_than_their_window():
    lay = features.expert_layout(4)
    for name, count in (("as `photo`", lay.inputs), ("no side information", lay.inputs - 22)):
        assert search.inputs_read(search.VARIANTS[name], 4).sum() == count
    small = search.inputs_read(search.VARIANTS["5x5"], 4)
    taps = [i for plane in range(3) for i in range(lay.taps(plane))]
    assert small[: len(taps)].tolist() == [np.abs(lay.offsets[i]).max() <= 2 for i in taps]
    assert small[len(taps) :].all()


def test_the_search(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(search, "CROPS", 6)
    monkeypatch.setattr(search, "PHOTOGRAPHS", 1)
    rng = np.random.default_rng(0)
    for i in range(3):
        pixels = rng.integers(100, 130, (70, 70, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
    config = tmp_path / "c.toml"
    config.write_text(f'name = "tiny"\ndata = ["{tmp_path}"]\ncrop = 64\n')
    names = ["residual", "Muon", "5x5", "coarse trunk", "trained", "trained, fitted prediction and coding errors"]
    assert search.main([str(config), "--seconds", "0.5", "--experts", "0", "--variants", *names]) == 0
    rows = [line.split("|")[1:-1] for line in capsys.readouterr().out.splitlines()[2:]]
    assert [row[0].strip() for row in rows] == names
    for row in rows:
        plain, learning, *processed, _ = map(float, row[1:])
        assert 4.5 < plain < 8  # noise of 30 values takes 4.9 bits
        assert 4.5 < learning < plain + 0.1
        assert all(2 < bits < 9 for bits in processed)


def test_an_expert_is_measured_as_the_codec_codes():
    """The trained network with its own basis takes as many bits as the codec's own layers and head."""
    expert, photo = 4, model.load("photo")
    ((pixels, columns),) = learned.pixels([PLANES], photo, [expert])[expert]
    coding = Coding(photo, network.backend("cpu"), expert, pixels)
    wanted = sum(bits for bits, _, _ in coding.run(len(pixels))) / len(pixels)

    same = learned.Learned(
        photo.tensors, lambda number, row, column, x: coding.trunk.forward(x)[-1] / 16, expert,
        np.ones(pixels.inputs.shape[1], bool), photo,
    )  # fmt: skip
    frozen, found = same.bits(0, pixels, columns)
    assert found == pytest.approx(wanted, rel=1e-9)
    assert found != frozen


def test_a_trained_variant_is_the_model(tmp_path):
    """It tells of pixels what ``photo`` does, but for what quantisation and half-precision weights make of it."""
    expert, photo = 4, model.load("photo")
    ((pixels, columns),) = learned.pixels([PLANES], photo, [expert])[expert]
    net = search.make_net(search.VARIANTS["trained, coarse trunk"], expert, 3)
    coarse = further.field("coarse trunk", [PLANES], expert, further.Generic([PLANES] * 2))

    def integers(number, row, column, x):
        return coding.trunk.forward(x)[-1] / 16

    def floats(number, row, column, x):
        return net.trunk(net.inputs(x / 32, coarse.read(np.zeros(len(row), int), row, column)), False)

    read = np.ones(pixels.inputs.shape[1], bool)
    coding = Coding(photo, network.backend("cpu"), expert, pixels)
    models = (
        learned.Learned(photo.tensors, integers, expert, read, photo),
        learned.Learned(learned.head_tensors(net, expert), floats, expert, read, photo),
    )
    models[1].measure_basis([(pixels, columns)], 0)
    (wanted, _), (found, learning) = (one.bits(0, pixels, columns) for one in models)
    assert found == pytest.approx(wanted, rel=5e-3)
    assert learning < found


def test_further_inputs_know_nothing_that_is_coded_later():
    """Changing a pixel changes nothing that pixels see that are coded before it."""
    generic = further.Generic([PLANES] * 2)
    for kind, expert in (("errors", 0), ("errors", 4), ("generic", 8), ("coarse trunk", 3)):
        lay = features.expert_layout(expert)
        oy, ox = further.KIND_OFFSETS[lay.kind]
        changed = PLANES.copy()
        changed[lay.channel :, oy::2, ox::2] ^= 64  # of this lattice: this channel and later ones
        for later in range(lay.kind + 1, 3):
            y, x = further.KIND_OFFSETS[later]
            changed[:, y::2, x::2] ^= 64
        one, other = (further.field(kind, [planes], expert, generic).array for planes in (PLANES, changed))
        assert one.any()
        assert np.array_equal(one, other)


def test_a_fitted_prediction_is_near():
    found = further.field("fitted", [PLANES], 0, further.Generic([PLANES] * 2)).array[0, 5:-5, 5:-5, 0] / further.ONE
    assert 0 < np.abs(found).mean() < 1  # of the activity, in nepers


def test_windows_of_a_field():
    array = np.arange(2 * 8 * 9 * 3).reshape(2, 8, 9, 3).astype(np.int16)
    window = further.Field(array, 3).read(np.array([1]), np.array([1]), np.array([2]))
    assert np.array_equal(window[0], array[1, 1:8, 2:9])


def test_large_windows_need_a_run_of_their_own(tmp_path, capsys):
    with pytest.raises(SystemExit):
        search.main([str(tmp_path), "--variants", "9x9", "5x5"])
    assert "a run of their own" in capsys.readouterr().err
