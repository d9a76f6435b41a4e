"""The integer network: all back ends give the reference's integers, and one that does not is refused."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ardmzip import learning, network, streams
from ardmzip.errors import BackendError
from ardmzip.network import Backend, Expert, Layer

CPU = torch.device("cpu")
CPU_BACKENDS = [Backend(CPU, product, numba) for product in network.PRODUCTS for numba in (True, False)]
no_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


def random_expert(rng, inputs=96, hidden=(64, 32), outputs=15, extreme=False) -> tuple[Expert, np.ndarray]:
    """An expert and its head weights int16 [outputs, hidden]."""
    layers = []
    for a, b in zip((inputs, *hidden[:-1]), hidden, strict=True):
        weight = rng.integers(-127, 128, (b, a))
        if extreme:
            weight = np.where(rng.random((b, a)) < 0.5, 127, -127)
            weight[0], weight[1] = 127, -127
        bias = rng.integers(-(2**20), 2**20, b)
        parts = weight.astype(np.int8), bias.astype(np.int32), rng.integers(0, 16, b).astype(np.int32)
        layers.append(Layer(*map(torch.from_numpy, parts)))
    head = rng.integers(-16384, 16384, (outputs, hidden[-1])).astype(np.int16)
    if extreme:
        head[0], head[1] = 16383, -16384
    bias = torch.from_numpy(rng.integers(-(2**22), 2**22, outputs).astype(np.int32))
    return Expert(tuple(layers), torch.from_numpy(network.split_head(head)), bias), head


def reference(expert: Expert, head: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Hidden activations and outputs by docs/FORMAT.md, in int64."""
    h = x.astype(np.int64)
    for layer in expert.layers:
        weight, bias, shift = (part.numpy().astype(np.int64) for part in (layer.weight, layer.bias, layer.shift))
        h = np.clip((h @ weight.T + bias) >> shift, 0, 127)
    return h, (h @ head.T.astype(np.int64) + expert.head_bias.numpy() + 64) >> 7


@pytest.mark.parametrize("backend", CPU_BACKENDS, ids=lambda backend: backend.name)
@settings(max_examples=12)
@given(st.integers(0, 2**32 - 1), st.integers(1, 70), st.booleans())
def test_products_equal_the_reference(backend, seed, rows, extreme):
    rng = np.random.default_rng(seed)
    expert, head = random_expert(rng, extreme=extreme)
    x = rng.integers(-127, 128, (rows, 96)).astype(np.int8)
    if extreme:
        x = np.where(x < 0, -127, 127).astype(np.int8)
        x[0], x[-1] = 127, -127
    hidden, outputs = reference(expert, head, x)
    h = backend.trunk(expert, torch.from_numpy(x))
    y = backend.head(expert, h)
    assert h.dtype == torch.int8
    assert y.dtype == torch.int32
    np.testing.assert_array_equal(h.numpy(), hidden)
    np.testing.assert_array_equal(y.numpy(), outputs)


@pytest.mark.parametrize("backend", CPU_BACKENDS, ids=lambda backend: backend.name)
def test_shipped_experts(backend, photo):
    rng = np.random.default_rng(1)
    experts, _ = photo.on(CPU)
    for e, expert in enumerate(experts):
        x = rng.integers(-127, 128, (9, expert.layers[0].weight.shape[1])).astype(np.int8)
        hidden, outputs = reference(expert, photo.tensors[f"expert.{e}.head.weight"], x)
        h = backend.trunk(expert, torch.from_numpy(x))
        np.testing.assert_array_equal(h.numpy(), hidden)
        np.testing.assert_array_equal(backend.head(expert, h).numpy(), outputs)


@pytest.mark.parametrize("backend", CPU_BACKENDS, ids=lambda backend: backend.name)
def test_hidden_layer_into_wider_rows(backend, photo):
    expert, x = photo.on(CPU)[0][5], torch.randint(-127, 128, (9, photo.on(CPU)[0][5].layers[0].weight.shape[1]))
    wanted = backend.trunk(expert, x.to(torch.int8))
    rows = torch.full((9, wanted.shape[1] + 40), -7, dtype=torch.int8)
    backend.trunk(expert, x.to(torch.int8), rows[:, 3 : 3 + wanted.shape[1]])
    assert torch.equal(rows[:, 3 : 3 + wanted.shape[1]], wanted)
    assert (rows[:, :3] == -7).all()
    assert (rows[:, 3 + wanted.shape[1] :] == -7).all()


def test_largest_activations():
    """All weights and inputs at their ends, in the widths of the shipped model."""
    weight = torch.full((256, 176), 127, dtype=torch.int8)
    zero, shift = torch.zeros(256, dtype=torch.int32), torch.full((256,), 14, dtype=torch.int32)
    head = np.full((15, 256), 16383, np.int16)
    expert = Expert((Layer(weight, zero, shift),), torch.from_numpy(network.split_head(head)), zero[:15])
    x = torch.full((40, 176), 127, dtype=torch.int8)
    hidden, outputs = reference(expert, head, x.numpy())
    assert hidden.max() == 127
    for backend in CPU_BACKENDS:
        h = backend.trunk(expert, x)
        np.testing.assert_array_equal(h.numpy(), hidden)
        np.testing.assert_array_equal(backend.head(expert, h).numpy(), outputs)


@given(arrays(np.int16, st.tuples(st.integers(1, 20), st.integers(1, 8)), elements=st.integers(-16384, 16383)))
def test_head_split(weight):
    halves = network.split_head(weight)
    padded = len(halves) // 2
    high, low = halves[: len(weight)].astype(int), halves[padded : padded + len(weight)].astype(int)
    assert halves.dtype == np.int8
    assert padded % 8 == 0
    assert (128 * high + low == weight).all()
    assert ((low >= 0) & (low <= 127)).all()
    assert not halves[len(weight) : padded].any()
    assert not halves[padded + len(weight) :].any()


def test_back_ends_are_tested_on_the_largest_heads():
    assert network.HEAD_INPUTS == learning.MAX_INPUTS
    assert network.LARGEST_BATCH == streams.MAX_BATCH


@pytest.mark.parametrize("backend", CPU_BACKENDS, ids=lambda backend: backend.name)
def test_products_of_learning_heads(backend):
    """Outputs of few rows, and gradient sums over any number of pixels, of which the second factor is transposed."""
    rng = np.random.default_rng(11)
    for n in (1, 2, 7, 44, 128, 1023, 1024, 1025, 2048, 5000):
        u = torch.from_numpy(rng.choice([-128, 127], (n, 400)).astype(np.int8))
        halves = torch.from_numpy(rng.choice([-128, 127], (32, n)).astype(np.int8))
        halves[0], halves[1], u[:, 0] = 127, -128, 127
        weight = torch.from_numpy(rng.choice([-128, 127], (32, 400)).astype(np.int8))
        with network.exact_arithmetic("cpu"):
            assert torch.equal(backend.matmul(halves, u.t()).long(), halves.long() @ u.long())
            assert torch.equal(backend.matmul(u, weight).long(), u.long() @ weight.long().t())


class OffByOne(Backend):
    """Wrong by one unit in one place of one product."""

    def matmul(self, x, w):
        product = super().matmul(x, w).clone()
        if len(x) > 1:
            product[1, -1] += 1
        return product


class Saturating(Backend):
    """What int8 kernels do on processors without VNNI: pairs of products are added with 16-bit saturation."""

    def matmul(self, x, w):
        pairs = x.int()[:, None] * w.int()[None]
        pairs = pairs.reshape(*pairs.shape[:2], -1, 2).sum(3)
        # x is offset to 0..255 there: the pair sums reach 2 * 255 * 127
        offset = 128 * w.int().reshape(len(w), -1, 2).sum(2)
        return ((pairs + offset).clamp(-(2**15), 2**15 - 1) - offset).sum(2).int()


class Crashing(Backend):
    def matmul(self, x, w):
        raise RuntimeError("not implemented for this device")


@pytest.mark.parametrize("kind", [OffByOne, Saturating, Crashing])
def test_wrong_back_ends_are_refused(kind):
    with pytest.raises(BackendError, match=r"self-test|does not work"):
        network.self_test(kind(CPU, "float64", True), ((96, 64),))


class LargestOnly(Backend):
    """Wrong where both factors are -128 throughout."""

    def matmul(self, x, w):
        product = super().matmul(x, w)
        return torch.where(product == 128 * 128 * x.shape[1], product - 1, product)


def test_the_self_test_reaches_the_ends():
    with pytest.raises(BackendError, match="self-test"):
        network.self_test(LargestOnly(CPU, "float64", True))


def test_tested_sizes(photo):
    """The self-test covers the layers of the shipped model."""
    shapes = {layer.weight.shape[::-1] for expert in photo.on(CPU)[0] for layer in expert.layers}
    assert shapes <= set(network._layer_sizes())


@pytest.mark.parametrize("precision", ["highest", "high", "medium"])
def test_settings_are_restored(precision):
    threads = torch.get_num_threads()
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        network.self_test(Backend(CPU, "float32", True), ((96, 64),))
        with torch.autocast("cpu"), network.exact_arithmetic("cpu") as outer, network.exact_arithmetic("cpu") as inner:
            assert outer == inner == threads
            assert torch.get_num_threads() == 1
            assert set(network._set_precisions(None)) <= {"ieee", "highest"}  # the second before torch 2.9
            x = torch.ones(2, 2)
            assert (x @ x).dtype == torch.float32  # no autocast
        assert torch.get_float32_matmul_precision() == precision
        assert torch.backends.cuda.matmul.allow_tf32 == (precision != "highest")
        assert torch.get_num_threads() == threads
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.fixture
def fresh_backends():
    network.backend.cache_clear()
    yield
    network.backend.cache_clear()


def wrong_for(*products):
    right = Backend.matmul
    return lambda self, x, w: right(self, x, w) + int(self.product in products)


@pytest.mark.usefixtures("fresh_backends")
def test_falls_back_to_float32(monkeypatch):
    monkeypatch.setattr(Backend, "matmul", wrong_for("int8"))
    assert network.backend("cpu").product == "float32"
    with pytest.raises(BackendError, match="int8"):
        network.backend("cpu", "int8")


@pytest.mark.usefixtures("fresh_backends")
def test_nothing_left_to_fall_back_to(monkeypatch):
    monkeypatch.setattr(Backend, "matmul", wrong_for("int8", "float32"))
    with pytest.raises(BackendError, match="float32"):
        network.backend("cpu")
    assert network.backend("cpu", "float64").product == "float64"


def test_choice():
    assert network.backend("cpu").numba
    assert network.backend("cpu", "float64", False) == Backend(CPU, "float64", False)
    assert network.backend("cpu", "float64") is network.backend("cpu", "float64")
    for device, product, message in [
        ("cpu", "int4", "unknown back end"),
        ("abacus", "auto", "unknown device"),
        ("meta", "auto", "unsupported device"),
    ]:
        with pytest.raises(BackendError, match=message):
            network.backend(device, product)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_missing_cuda():
    assert network.backend("auto").device.type == "cpu"
    with pytest.raises(BackendError, match="no CUDA device"):
        network.backend("cuda")


@no_cuda
@pytest.mark.parametrize("product", network.PRODUCTS)
def test_cuda_equals_the_reference(product):
    backend = network.backend("cuda", product)
    rng = np.random.default_rng(2)
    for rows, extreme in [(1, False), (16, True), (17, False), (300, True)]:
        expert, head = random_expert(rng, extreme=extreme)
        x = rng.integers(-127, 128, (rows, 96)).astype(np.int8)
        hidden, outputs = reference(expert, head, x)
        h = backend.trunk(expert.to(backend.device), torch.from_numpy(x).to(backend.device))
        y = backend.head(expert.to(backend.device), h)
        np.testing.assert_array_equal(h.cpu().numpy(), hidden)
        np.testing.assert_array_equal(y.cpu().numpy(), outputs)
