"""The search for a network on a few small crops."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from ardmzip import codec, features
from ardmzip.fitting.fit import Coding
from ardmzip.image import to_planes
from bench import further, learned, search, shared

#: Planes of a photograph-like image: smooth, with noise.
PLANES = to_planes(
    (
        np.add.outer(np.arange(64), np.arange(90))[:, :, None] * [1, 1.2, 0.8]
        + np.random.default_rng(3).normal(0, 3, (64, 90, 3))
    ).astype(np.uint8)
)


def test_variants_read_no_more_than_their_window():
    lay = features.expert_layout(4)
    for name, count in (("base", lay.inputs), ("no side information", lay.inputs - 22)):
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
    names = ["residual", "Muon", "5x5", "coarse trunk", "photo", "photo + fitted prediction + coding errors"]
    assert search.main([str(config), "--seconds", "0.5", "--experts", "0", "--variants", *names]) == 0
    rows = [line.split("|")[1:-1] for line in capsys.readouterr().out.splitlines()[2:]]
    assert [row[0].strip() for row in rows] == names
    for row in rows:
        plain, learning, *processed, _ = map(float, row[1:])
        assert 4.5 < plain < 8  # noise of 30 values takes 4.9 bits
        assert 4.5 < learning < plain + 0.1
        assert all(2 < bits < 9 for bits in processed)


def test_an_expert_is_measured_as_the_codec_codes(photo, cpu):
    """The trained network with its own basis takes as many bits as the codec says, pixel by pixel of level 0."""
    rng = np.random.default_rng(4)
    planes = (np.add.outer(np.arange(220), np.arange(230)) / 2 + rng.normal(0, 5, (3, 220, 230))).astype(np.uint8)
    gains = []
    codec.encode(planes, photo, cpu, gains=gains, phase=(0, 0))
    found, experts = np.zeros(2), list(range(9))
    for expert, (pixels,) in learned.pixels([planes], photo, experts).items():
        trunk = Coding(photo, cpu, expert, pixels.samples).trunk
        same = learned.Learned(
            photo.tensors, lambda x, windows, trunk=trunk: trunk.forward(x)[-1] / 16, expert,
            np.ones(pixels.samples.inputs.shape[1], bool), photo,
        )  # fmt: skip
        found += np.array(same.bits(pixels)) * len(pixels.samples)
    level = [gain for gain in gains if gain.level == 0]
    assert sum(gain.pixels for gain in level) == planes.size - planes[:, ::2, ::2].size
    assert found == pytest.approx([sum(gain.frozen for gain in level), sum(gain.learned for gain in level)], rel=1e-9)
    assert found[1] < found[0]


def test_a_trained_variant_is_the_model(photo, cpu):
    """It tells of pixels what ``photo`` does, but for what quantisation and half-precision weights make of it."""
    expert = 4
    (pixels,) = learned.pixels([PLANES], photo, [expert])[expert]
    net = search.make_net(search.VARIANTS["photo + coarse trunk"], expert)
    coarse = further.windows("coarse trunk", [PLANES], expert, further.GenericPredictors([PLANES]))
    trunk, read = Coding(photo, cpu, expert, pixels.samples).trunk, np.ones(pixels.samples.inputs.shape[1], bool)

    def integers(x, windows):
        return trunk.forward(x)[-1] / 16

    def floats(x, windows):
        return net.trunk(net.inputs(x, windows), False)

    wanted, _ = learned.Learned(photo.tensors, integers, expert, read, photo).bits(pixels)
    same = learned.Learned(learned.head_tensors(net, expert), floats, expert, read, photo)
    same.measure_basis([pixels], coarse)
    found, learning = same.bits(pixels, coarse)
    assert found == pytest.approx(wanted, rel=5e-3)
    assert learning < found


@pytest.mark.parametrize("kind", list(further.KINDS))
@pytest.mark.parametrize("expert", range(9))
def test_further_inputs_know_nothing_that_is_coded_later(kind, expert, monkeypatch):
    """Changing what is coded with or after an atom changes none of its inputs, but for fitted coefficients."""
    generic = further.GenericPredictors([PLANES] * 2)
    generic.errors(PLANES)
    monkeypatch.setattr(further, "_solve", lambda moments: np.linspace(-0.2, 0.3, len(moments[1])))
    lay = features.expert_layout(expert)
    oy, ox = features.KIND_OFFSETS[lay.kind]
    changed = PLANES.copy()
    changed[lay.channel :, oy::2, ox::2] ^= 64
    for y, x in features.KIND_OFFSETS[lay.kind + 1 :]:
        changed[:, y::2, x::2] ^= 64
    one, other = (further.windows(kind, [planes], expert, generic).array for planes in (PLANES, changed))
    assert one.any()
    assert np.array_equal(one, other)


def test_predictions_are_nearer_than_the_mean_of_the_neighbours():
    expert = 4
    found = further._regression(PLANES, expert, 0)
    generic = further.GenericPredictors([PLANES])
    for kind in ("fitted", "generic"):
        seen = further.windows(kind, [PLANES], expert, generic).array[0, found.row // 2, found.column // 2, 0]
        companded = seen / further.INPUT_ONE
        predicted = np.sign(companded) * np.expm1(np.abs(companded)) * (found.activity + 0.5)
        assert np.abs(found.target - predicted).mean() < 0.8 * np.abs(found.target).mean()


def test_means_of_wide_windows():
    """As they are where a window lies within the array, and those of a mirrored array at a corner."""
    array = np.random.default_rng(0).normal(0, 1, (9, 12))
    means = further._box_mean(array, 2)
    assert means[3, 5] == pytest.approx(array[1:6, 3:8].mean())
    corner = array[:3, :3][[1, 0, 0, 1, 2]][:, [1, 0, 0, 1, 2]]
    assert means[0, 0] == pytest.approx(corner.mean())


def test_windows_around_pixels():
    array = np.arange(2 * 8 * 9 * 3).reshape(2, 8, 9, 3).astype(np.int16)
    window = further.Windows(array, 3).read(np.array([1]), np.array([1]), np.array([2]))
    assert np.array_equal(window[0], array[1, 1:8, 2:9])


def test_large_windows_need_a_run_of_their_own(tmp_path, capsys):
    with pytest.raises(SystemExit):
        search.main([str(tmp_path), "--variants", "9x9", "5x5"])
    assert "a run of their own" in capsys.readouterr().err


@pytest.mark.parametrize("script", [search, shared])
def test_what_is_missing_is_told_in_a_line(script, tmp_path, capsys):
    config = tmp_path / "c.toml"
    for text in (None, f'name = "tiny"\ndata = ["{tmp_path}/none"]\n'):
        if text:
            config.write_text(text)
        assert script.main([str(config)]) == 1
        assert capsys.readouterr().err.count("\n") == 1
