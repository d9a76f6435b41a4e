"""Model files: saving and loading, ids, and what is said of unknown and damaged ones."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ardmzip import codec, container, features, learning, model, streams, tables
from ardmzip.errors import FormatError, ModelError


def small_tensors() -> dict[str, np.ndarray]:
    """The smallest model: three hidden units an expert, one mixture component."""
    tensors = {f"table.{name}": table for name, table in tables.build().items()}
    for e in range(features.EXPERTS):
        inputs = features.expert_layout(e).inputs
        tensors |= {
            f"expert.{e}.0.weight": (np.arange(3 * inputs) % 255 - 127).astype(np.int8).reshape(3, inputs),
            f"expert.{e}.0.bias": np.array([1, -(2**30), 3], np.int32),
            f"expert.{e}.0.shift": np.array([0, 31, 9], np.int32),
            f"expert.{e}.head.weight": np.array([[-16384, 16383, 0]] * 3, np.int16),
            f"expert.{e}.head.bias": np.arange(3, dtype=np.int32),
        }
    return tensors


def learning_tensors(hidden: int = 3, directions: int = 2) -> dict[str, np.ndarray]:
    """What lets the heads of such a model learn."""
    tensors = {}
    for e in range(features.EXPERTS):
        inputs = learning.head_inputs(hidden, e)
        tensors |= {
            f"learning.{e}.basis": (np.arange(directions * inputs) % 255 - 127)
            .astype(np.int8)
            .reshape(directions, inputs),
            f"learning.{e}.mix": np.diag([65536, -65536, 9]).astype(np.int32),
            f"learning.{e}.rate": np.arange(directions, dtype=np.int32) % 2 * (2**31 - 1),
        }
    return tensors


SMALL = small_tensors()
LEARNING = SMALL | learning_tensors()
LOSS = {3: np.triu(np.ones((9, 9))), 1: np.zeros((3, 3))}
CARD = {"data": ["a", "b"], "note": "für alle"}


def save(path, tensors=SMALL, name="small") -> bytes:
    return model.save(path, name, tensors, LOSS, np.arange(22.0), np.ones(22), CARD)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder in which models are looked for, before the shipped ones."""
    monkeypatch.setattr(model, "FOLDERS", (tmp_path, *model.FOLDERS))
    return tmp_path


def test_save_and_load(tmp_path):
    path = tmp_path / "x.safetensors"
    identity = save(path)
    loaded = model.load(path)
    assert loaded.id == identity == model.model_id(SMALL)
    assert len(identity) == container.MODEL_ID_BYTES
    assert loaded.name == "small"
    assert loaded.card == CARD
    assert set(loaded.tensors) == set(SMALL)
    for name, array in SMALL.items():
        assert loaded.tensors[name].dtype == array.dtype
        np.testing.assert_array_equal(loaded.tensors[name], array)
    assert set(loaded.loss) == {1, 3}
    np.testing.assert_array_equal(loaded.loss[3], LOSS[3].astype(np.float32))
    np.testing.assert_array_equal(loaded.side_mean, np.arange(22.0))
    assert set(loaded.tables) == set(tables.LIMITS)
    assert path.stat().st_mode & 0o777 == 0o644
    assert model.load(str(path)).id == identity


def test_save_and_load_a_model_that_learns(tmp_path):
    path, gain = tmp_path / "x.safetensors", np.arange(5.0)
    identity = model.save(path, "x", LEARNING, LOSS, np.zeros(22), np.ones(22), CARD, gain)
    loaded = model.load(path)
    assert loaded.id == identity == model.model_id(LEARNING) != model.model_id(SMALL)
    assert loaded.learning_gain.tolist() == gain.tolist()
    assert loaded.learns
    for e in range(features.EXPERTS):
        assert loaded.untaught(e) is loaded.untaught(e)
        head = learning.Head(loaded.untaught(e), 9)
        assert head.weight.shape == (16, learning.padded_inputs(3, e))
        assert head.weight.shape[1] % features.ALIGN == 0
        np.testing.assert_array_equal(head.exact[:, :3], 65536.0 * SMALL[f"expert.{e}.head.weight"])
        assert not head.exact[:, 3:].any()
    path = tmp_path / "y.safetensors"
    save(path)
    assert not model.load(path).learns
    assert not model.load(path).learning_gain.any()


def test_invalid_learning_curve(tmp_path):
    path = tmp_path / "x.safetensors"
    for gain in (np.ones(1), np.ones((2, 2)), np.array([0, np.nan])):
        model.save(path, "x", LEARNING, LOSS, np.zeros(22), np.ones(22), CARD, gain)
        with pytest.raises(ModelError, match="its learning curve is not valid"):
            model.load(path)


def test_what_a_card_says_of_learning(tmp_path):
    path = tmp_path / "x.safetensors"

    def loaded(tensors, card) -> model.Model:
        model.save(path, "x", tensors, LOSS, np.zeros(22), np.ones(22), card)
        return model.load(path)

    for recipe, learn in (({}, True), ({"learn": True}, True), ({"learn": False}, False)):
        assert loaded(LEARNING, {"recipe": recipe}).learn_by_default is learn
        assert not loaded(SMALL, {"recipe": recipe}).learn_by_default
    assert loaded(LEARNING, CARD).learn_by_default
    for card in ([], {"recipe": "fast"}):
        with pytest.raises(ModelError, match="its card is not valid"):
            loaded(LEARNING, card)


def test_inputs_of_learning_heads():
    """docs/FORMAT.md: hidden layer, taps of three planes, six scalars, the constant."""
    for e in range(features.EXPERTS):
        kind, channel = e // 3 % 3, e % 3
        taps = 3 * (16, 24, 40)[kind] + 8 * channel
        assert learning.head_inputs(256, e) == 256 + taps + 7
        assert 0 <= learning.padded_inputs(256, e) - learning.head_inputs(256, e) < 16


def test_metadata(tmp_path):
    path = tmp_path / "x.safetensors"
    identity = save(path)
    metadata = model.read_metadata(path)
    assert (metadata["format"], metadata["name"], metadata["id"]) == (model.FORMAT, "small", identity.hex())
    assert json.loads(metadata["card"]) == CARD


def test_id():
    identity = model.model_id(SMALL)
    assert model.model_id(dict(reversed(SMALL.items()))) == identity
    swapped = {name: array.astype(array.dtype.newbyteorder(">")) for name, array in SMALL.items()}
    assert model.model_id(swapped) == identity
    fortran = {name: np.asfortranarray(array) for name, array in SMALL.items()}
    assert model.model_id(fortran) == identity
    for name, array in SMALL.items():
        for other in (array + 1, array.ravel()[None], array.astype(np.int64), array[:-1]):
            assert model.model_id({**SMALL, name: other}) != identity
        assert model.model_id({key: value for key, value in SMALL.items() if key != name}) != identity
        renamed = {key + "x" if key == name else key: value for key, value in SMALL.items()}
        assert model.model_id(renamed) != identity


def test_names(folder, photo):
    assert model.names_by_id()[photo.id] == "photo"
    shipped = model.names_by_id()
    identity = save(folder / "small.safetensors")
    assert model.names_by_id() == shipped | {identity: "small"}
    assert model.find(identity).id == identity
    assert model.find(photo.id).name == model.find(photo.id[:2]).name == "photo"
    assert model.load("small").id == identity
    assert model.available()["small"] == folder / "small.safetensors"


def test_first_folder_wins(folder, photo):
    identity = save(folder / "photo.safetensors")
    assert identity != photo.id
    assert model.load("photo").id == identity


def test_ids_that_begin_alike(monkeypatch):
    monkeypatch.setattr(model, "names_by_id", lambda: {b"\1\2aa": "one", b"\1\2bb": "two", b"\1\3aa": "three"})
    assert model.named(b"\1\2") == ["one", "two"]
    assert model.named(b"\1\2bb") == ["two"]
    with pytest.raises(ModelError, match="0102, which may be one or two: name one of them"):
        model.find(b"\1\2")


def test_unknown(tmp_path):
    with pytest.raises(ModelError, match=r"unknown model: nonesuch \(available: .*photo"):
        model.load("nonesuch")
    with pytest.raises(ModelError, match="needs model 00010203, which is not installed"):
        model.find(bytes(range(4)))
    with pytest.raises(ModelError, match="cannot read model"):
        model.load(tmp_path / "missing.safetensors")
    with pytest.raises(ModelError):
        model.load(tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"short",
        bytes(8),
        b"\x02" + bytes(7) + b"{}",
        b"\xff" * 100,
        b"\x89PNG\r\n\x1a\n" + bytes(100),
        b"\x04" + bytes(7) + b"null",
        b"\x12" + bytes(7) + b'{"__metadata__":3}',
        b"\x13" + bytes(7) + b'{"__metadata__":{}}',
    ],
)
def test_no_model_file(tmp_path, content):
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"not a model file|not an ardmzip model") as caught:
        model.load(path)
    assert "\n" not in str(caught.value)


def test_foreign_safetensors(tmp_path):
    from safetensors.numpy import save_file

    path = tmp_path / "x.safetensors"
    save_file({"weight": np.zeros(3)}, path)
    with pytest.raises(ModelError, match="not a model file"):
        model.load(path)
    save_file({"weight": np.zeros(3)}, path, {"format": "pt"})
    with pytest.raises(ModelError, match="not an ardmzip model"):
        model.load(path)


def test_newer_format(tmp_path, monkeypatch):
    monkeypatch.setattr(model, "FORMAT", "7")
    save(tmp_path / "x.safetensors")
    monkeypatch.undo()
    with pytest.raises(ModelError, match="unknown model format 7"):
        model.load(tmp_path / "x.safetensors")


def test_truncated(tmp_path):
    path = tmp_path / "x.safetensors"
    save(path)
    content = path.read_bytes()
    for length in [*range(0, 3000, 7), *range(3000, len(content), 997)]:
        short = tmp_path / f"{length}.safetensors"
        short.write_bytes(content[:length])
        with pytest.raises(ModelError):
            model.load(short)


@pytest.fixture(scope="module")
def small_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "x.safetensors"
    save(path)
    return path, path.read_bytes()


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_one_flipped_bit(small_file, data):
    """Either one clear error, or the integers that decide a file are what they were."""
    path, content = small_file
    damaged = bytearray(content)
    damaged[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(bytes(damaged))
    model._load.cache_clear()
    try:
        loaded = model.load(path)
    except ModelError:
        return
    assert model.model_id(loaded.tensors) == model.model_id(SMALL) == loaded.id


def edited(name: str, change) -> dict[str, np.ndarray]:
    return {**SMALL, name: change(SMALL[name])}


def with_first(value: int):
    def change(array: np.ndarray) -> np.ndarray:
        array = array.copy()
        array.flat[0] = value
        return array

    return change


INVALID = {
    "no tensors": ({}, "tensor table.class_of is missing"),
    "no bias": ({k: v for k, v in SMALL.items() if k != "expert.17.0.bias"}, "expert.17.0.bias is missing"),
    "no expert": ({k: v for k, v in SMALL.items() if not k.startswith("expert.4.")}, "expert.4.0.weight is missing"),
    "gap": ({**SMALL, "expert.0.2.weight": np.zeros((3, 3), np.int8)}, "unknown tensor expert.0.2.weight"),
    "inputs": (edited("expert.3.0.weight", lambda w: w[:, :-1]), r"expert.3.0.weight is int8 \(3, "),
    "chain": (edited("expert.3.head.weight", lambda w: w[:, :-1]), r"expert.3.head.weight is int16 \(3, 2\)"),
    "bias": (edited("expert.3.0.bias", lambda b: b[:-1]), r"expert.3.0.bias is int32 \(2,\)"),
    "dtype": (edited("expert.3.0.weight", lambda w: w.astype(np.int16)), "expert.3.0.weight is int16"),
    "dimensions": (edited("expert.3.0.weight", np.ravel), "expert.3.0.weight is int8"),
    "empty": (edited("expert.3.0.weight", lambda w: w[:0]), "expert.3.0.weight is int8"),
    "weight": (edited("expert.3.0.weight", with_first(-128)), "out of its range of -127 to 127"),
    "head": (edited("expert.3.head.weight", with_first(16384)), "out of its range of -16384 to 16383"),
    "shift": (edited("expert.3.0.shift", with_first(32)), "out of its range of 0 to 31"),
    "sum": (edited("expert.3.0.bias", with_first(-(2**31))), "sums of expert.3.0 leave 32 bits"),
    "head sum": (edited("expert.3.head.bias", with_first(2**31 - 2**21)), "sums of expert.3.head leave 32 bits"),
    "outputs": ({**edited("expert.3.head.weight", lambda w: w[:2]), "expert.3.head.bias": np.zeros(2, np.int32)},
                "expert 3 has 2 outputs"),
    "falling": (edited("table.logistic", lambda t: t[::-1].copy()), "table.logistic falls"),
    "table": (edited("table.exp2", lambda t: t[:-1]), r"table.exp2 is int32 \(1023,\)"),
}  # fmt: skip
for _name, (_, _, _low, _high) in tables.LIMITS.items():
    if _name != "class_of" and _name != "compand":
        INVALID[f"{_name} low"] = edited(f"table.{_name}", with_first(_low - 1)), f"table.{_name} has values out of"
    if _name != "compand":
        INVALID[f"{_name} high"] = edited(f"table.{_name}", with_first(_high + 1)), f"table.{_name} has values out of"


def taught(name: str, change) -> dict[str, np.ndarray]:
    return {**LEARNING, name: change(LEARNING[name])}


def wide(hidden: int) -> dict[str, np.ndarray]:
    """A model whose last hidden layers have so many units."""
    tensors = LEARNING | learning_tensors(hidden)
    for e in range(features.EXPERTS):
        inputs = features.expert_layout(e).inputs
        tensors[f"expert.{e}.0.weight"] = np.ones((hidden, inputs), np.int8)
        tensors[f"expert.{e}.0.bias"] = tensors[f"expert.{e}.0.shift"] = np.zeros(hidden, np.int32)
        tensors[f"expert.{e}.head.weight"] = np.ones((3, hidden), np.int16)
    return tensors


INVALID |= {
    "no basis": ({k: v for k, v in LEARNING.items() if k != "learning.3.basis"}, "learning.3.basis is missing"),
    "no mix": ({k: v for k, v in LEARNING.items() if k != "learning.3.mix"}, "learning.3.mix is missing"),
    "no rate": ({k: v for k, v in LEARNING.items() if k != "learning.17.rate"}, "learning.17.rate is missing"),
    "mix alone": ({**SMALL, "learning.0.mix": LEARNING["learning.0.mix"]}, "tensor learning.0.basis is missing"),
    "expert 18": ({**LEARNING, "learning.18.rate": LEARNING["learning.0.rate"]}, "unknown tensor learning.18.rate"),
    "basis inputs": (taught("learning.3.basis", lambda b: b[:, 1:].copy()), r"learning.3.basis is int8 \(2, "),
    "basis dtype": (taught("learning.3.basis", lambda b: b.astype(np.int16)), "learning.3.basis is int16"),
    "no direction": (taught("learning.3.basis", lambda b: b[:0]), r"learning.3.basis is int8 \(0, "),
    "basis": (taught("learning.3.basis", with_first(-128)), "out of its range of -127 to 127"),
    "mix shape": (taught("learning.3.mix", lambda m: m[:2]), r"learning.3.mix is int32 \(2, 3\)"),
    "mix high": (taught("learning.3.mix", with_first(65537)), "out of its range of -65536 to 65536"),
    "mix low": (taught("learning.3.mix", with_first(-65537)), "out of its range of -65536 to 65536"),
    "rate shape": (taught("learning.3.rate", lambda r: r[:1]), r"learning.3.rate is int32 \(1,\)"),
    "rate low": (taught("learning.3.rate", with_first(-1)), "out of its range of 0 to 2147483647"),
    "directions": (LEARNING | learning_tensors(3, 1025), "learning head 0 has [0-9]+ inputs and 1025 directions"),
    "learning sum": (
        taught("expert.3.head.bias", with_first(2**31 - 2**22)) | {"expert.3.head.weight": np.zeros((3, 3), np.int16)},
        "sums of learning head 3 leave 32 bits",
    ),
}


def test_too_many_learning_inputs():
    """docs/FORMAT.md: at most 512, so that products in float64 are exact; 65,536 pixels a batch."""
    most = 512 - 120 - 16 - 7
    model.check(wide(most))
    assert streams.LIMIT * learning.HALVES_MAX * 128 * 127 * 512 < 2**53
    with pytest.raises(ModelError, match="learning head 8"):
        model.check(wide(most + 1))


def test_offsets_count_for_the_largest_sum():
    """docs/FORMAT.md: N * 128 * 16384 + |bias| + 2**22 + 64 stays below 2**31."""
    inputs = learning.head_inputs(3, 3)
    most = 2**31 - 1 - inputs * 128 * 16384 - 2**22 - 64
    for bias in (most, -most):
        model.check(taught("expert.3.head.bias", with_first(bias)))
        with pytest.raises(ModelError, match="sums of learning head 3 leave 32 bits"):
            model.check(taught("expert.3.head.bias", with_first(bias + 1 if bias > 0 else bias - 1)))


def test_learning_tensors_of_some_experts_only():
    for some in (range(1, 18), [5]):
        tensors = SMALL | {k: v for k, v in LEARNING.items() if k.startswith(tuple(f"learning.{e}." for e in some))}
        with pytest.raises(ModelError, match="learning"):
            model.check(tensors)


@pytest.mark.parametrize("name", list(INVALID))
def test_invalid_models(tmp_path, name):
    """Their ids are right, so only their contents tell."""
    tensors, message = INVALID[name]
    save(tmp_path / "x.safetensors", tensors)
    with pytest.raises(ModelError, match=f"not a valid model: .*{message}") as caught:
        model.load(tmp_path / "x.safetensors")
    assert "\n" not in str(caught.value)


def test_invalid_statistics(tmp_path):
    path, mean, std = tmp_path / "x.safetensors", np.zeros(22), np.ones(22)
    for loss, mean_, std_ in [
        ({**LOSS, 3: np.ones((9, 8))}, mean, std),
        ({**LOSS, 3: np.ones((6, 6))}, mean, std),
        ({**LOSS, 1: np.full((3, 3), np.nan)}, mean, std),
        (LOSS, mean[1:], std),
        (LOSS, mean, np.zeros(22)),
        (LOSS, mean + np.inf, std),
    ]:
        model.save(path, "x", SMALL, loss, mean_, std_, CARD)
        with pytest.raises(ModelError, match="not a valid model: its"):
            model.load(path)


def test_table_limits():
    built = tables.build()
    assert list(built) == list(tables.LIMITS)
    for name, (kind, length, low, high) in tables.LIMITS.items():
        assert built[name].dtype == kind
        assert built[name].shape == (length,)
        assert low <= built[name].min()
        assert built[name].max() <= high


def test_a_damaged_model_does_not_hide_the_others(folder, photo):
    (folder / "a.safetensors").write_bytes(b"rubbish")
    assert model.find(photo.id).id == photo.id
    assert model.names_by_id()[photo.id] == "photo"


def test_experts_are_kept_on_their_device(photo):
    cpu = torch.device("cpu")
    experts, tables = photo.on(cpu)
    assert photo.on(cpu)[0] is experts
    assert len(experts) == 18
    assert set(tables) == set(photo.tables)
    for e, expert in enumerate(experts):
        assert expert.outputs % 3 == 0
        assert len(expert.layers) >= 1
        for layer in expert.layers:
            assert layer.weight.dtype == torch.int8
            assert int(layer.weight.min()) >= -127
            assert ((layer.shift >= 0) & (layer.shift < 32)).all()
        head = photo.tensors[f"expert.{e}.head.weight"]
        assert head.min() >= -16384
        assert head.max() <= 16383


def test_shipped_loss_tables(photo):
    for channels in (1, 3):
        table = photo.loss[channels]
        assert table.shape[0] == table.shape[1]
        assert table.shape[0] % (3 * channels) == 0
        assert np.isfinite(table[np.triu_indices(len(table))]).all()
    assert photo.side_mean.shape == photo.side_std.shape == (22,)
    assert (photo.side_std > 0).all()


def test_a_renamed_model_decodes(folder, photo, cpu):
    """Files name a model by its integers, so its name, card and loss tables may change."""
    again = model.save(folder / "other.safetensors", "other", photo.tensors, LOSS, photo.side_mean, photo.side_std, {})
    assert again == photo.id
    planes = np.arange(48, dtype=np.uint8).reshape(3, 4, 4)
    coded = codec.encode(planes, model.load("other"), cpu)
    np.testing.assert_array_equal(codec.decode(coded, photo, cpu), planes)
    with pytest.raises(FormatError):
        codec.decode(replace(coded, pixel_crc=coded.pixel_crc ^ 1), photo, cpu)
