"""The network in exact integers: MLP experts, and the back ends that may evaluate them (docs/FORMAT.md, "Network").

Activations are int8, weights int8, accumulators exact; a layer is ``clamp((x @ w.T + bias) >> shift, 0, 127)``. A back
end may use any arithmetic that gives these integers: every one proves it on worst-case inputs before it is used.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor

from ardmzip.errors import BackendError
from ardmzip.features import EXPERTS, expert_layout

#: Matrix products by back end name: int8 GEMM with int32 sums, or float GEMM whose sums stay exact integers.
PRODUCTS = ("int8", "float32", "float64")
#: A float32 sum of integers is exact in any order while no partial sum can reach this.
FLOAT32_EXACT = 1 << 24
ACTIVATION_MAX = 127
#: Largest |int8|: no input or weight is larger.
INPUT_MAX = 128
#: Width of the hidden layers that back ends are tested on; a model may have others.
HIDDEN = 256
#: Most inputs of a head (learning.MAX_INPUTS).
HEAD_INPUTS = 512
#: Pixels of the largest batch that a head learns from by its own rule (streams.MAX_BATCH).
LARGEST_BATCH = 4096
#: Head weights are split as 128 * high + low, two int8 halves.
HEAD_SPLIT = 7
#: Head sums are in units of 2**-15 (activations 1/16, weights 2**-11); outputs in 1/256.
HEAD_SHIFT = 7


@dataclass(frozen=True)
class Layer:
    """``clamp((x @ weight.T + bias) >> shift, 0, 127)``: weight int8 [out, in], bias and shift int32 [out]."""

    weight: Tensor
    bias: Tensor
    shift: Tensor


@dataclass(frozen=True)
class Expert:
    """Integer MLP. ``halves`` int8 [2 * padded, hidden]: high and low halves of the head's weights, rows padded to
    a multiple of 8; ``head_bias`` int32 [outputs]."""

    layers: tuple[Layer, ...]
    halves: Tensor
    head_bias: Tensor

    @property
    def outputs(self) -> int:
        return len(self.head_bias)

    def to(self, device: torch.device) -> Expert:
        layers = tuple(Layer(x.weight.to(device), x.bias.to(device), x.shift.to(device)) for x in self.layers)
        return Expert(layers, self.halves.to(device), self.head_bias.to(device))


def split_head(weight: np.ndarray) -> np.ndarray:
    """int16 [outputs, hidden] (15 bits) -> int8 [2 * padded, hidden] halves: ``weight = 128 * high + low``."""
    outputs, hidden = weight.shape
    padded = -(-outputs // 8) * 8
    halves = np.zeros((2 * padded, hidden), np.int8)
    halves[:outputs] = weight >> HEAD_SPLIT
    halves[padded : padded + outputs] = weight & ((1 << HEAD_SPLIT) - 1)
    return halves


@dataclass(frozen=True)
class Backend:
    """Where and how to compute: a device, a kind of matrix product, and whether numba kernels do the rest."""

    device: torch.device
    product: str
    numba: bool

    @property
    def name(self) -> str:
        return f"{self.device.type}-{self.product}{'' if self.numba else '-torch'}"

    def matmul(self, x: Tensor, w: Tensor) -> Tensor:
        """Exact int32 [n, m] = x int8 [n, k] @ w int8 [m, k].T."""
        if self.product == "int8":
            if self.device.type == "cuda" and len(x) <= 16:  # cuBLASLt wants more than 16 rows
                padded = x.new_zeros(32, x.shape[1])
                padded[: len(x)] = x
                return torch._int_mm(padded, w.t())[: len(x)]
            return torch._int_mm(x, w.t())
        # sums over the pixels of a batch (learning.py) can be longer than those of a layer
        small = x.shape[1] * INPUT_MAX**2 < FLOAT32_EXACT
        kind = torch.float32 if self.product == "float32" and small else torch.float64
        return (x.to(kind) @ w.to(kind).t()).to(torch.int32)

    def trunk(self, expert: Expert, x: Tensor, out: Tensor | None = None) -> Tensor:
        """All layers but the head: int8 [n, inputs] -> int8 [n, hidden], into ``out`` if given, whose rows may lie
        apart."""
        for layer in expert.layers:
            if self.numba and self.product == "int8":
                acc = torch._int_mm(x, layer.weight.t(), out=_scratch(len(x), len(layer.weight)))
            else:
                acc = self.matmul(x, layer.weight)
            if self.numba:
                into = out if layer is expert.layers[-1] else None
                x = torch.empty(acc.shape, dtype=torch.int8) if into is None else into
                flat = x.as_strided((max(0, (len(x) - 1) * x.stride(0) + x.shape[1]),), (1,))
                _kernels().requantise(acc.numpy(), layer.bias.numpy(), layer.shift.numpy(), flat.numpy(), x.stride(0))
            else:
                x = ((acc + layer.bias) >> layer.shift).clamp(0, ACTIVATION_MAX).to(torch.int8)
        if out is not None and x is not out:
            out.copy_(x)
        return x

    def head(self, expert: Expert, h: Tensor) -> Tensor:
        """The last layer: int8 [n, hidden] -> int32 [n, outputs] in 1/256."""
        acc = self.matmul(h, expert.halves)
        padded = acc.shape[1] // 2
        n = expert.outputs
        total = (acc[:, :n] << HEAD_SPLIT) + acc[:, padded : padded + n] + expert.head_bias
        return (total + (1 << (HEAD_SHIFT - 1))) >> HEAD_SHIFT


_memory = threading.local()


def _scratch(rows: int, columns: int) -> Tensor:
    """An int32 tensor of this thread, for sums that are used at once.

    Fresh megabytes for every product would go back to the system each time, and fault again page by page.
    """
    if getattr(_memory, "sums", None) is None or _memory.sums.numel() < rows * columns:
        _memory.sums = torch.empty(rows * columns, dtype=torch.int32)
    return _memory.sums[: rows * columns].view(rows, columns)


def _kernels():
    """numba takes a moment to import, and CUDA does not need it."""
    from ardmzip import kernels

    return kernels


class _Settings:
    """Settings of torch that hold for the whole process: one thread an operation, float32 products in full float32."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self.threads = 1
        self._precisions: list[str] = []

    def acquire(self) -> None:
        """Set them. Overlapping uses share them; the last one restores what was set before the first."""
        with self._lock:
            if self._users == 0:
                self.threads = torch.get_num_threads()
                self._precisions = _set_precisions(None)
            self._users += 1
            torch.set_num_threads(1)

    def release(self) -> None:
        with self._lock:
            self._users -= 1
            if self._users == 0:
                torch.set_num_threads(self.threads)
                _set_precisions(self._precisions)


def _set_precisions(values: list[str] | None) -> list[str]:
    """Set the precisions of float32 products on CUDA and the CPU, None being the full one; returns those before."""
    if not hasattr(torch.backends.cuda.matmul, "fp32_precision"):  # torch before 2.9 has one for both
        before = [torch.get_float32_matmul_precision()]
        torch.set_float32_matmul_precision(values[0] if values else "highest")
        return before
    products = torch.backends.cuda.matmul, torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    before = [product.fp32_precision for product in products]
    for product, value in zip(products, values or ["ieee", "ieee"], strict=True):
        product.fp32_precision = value
    return before


_settings = _Settings()


@contextlib.contextmanager
def exact_arithmetic(device_type: str) -> Iterator[int]:
    """Products are computed as a back end says, whatever the caller has set: no autocast, no TF32; and on one thread.

    Yields the number of threads set before. All settings are restored in the end.
    """
    _settings.acquire()
    try:
        # learning heads run on the CPU whatever the device
        with torch.autocast(device_type, enabled=False), torch.autocast("cpu", enabled=False):
            yield _settings.threads
    finally:
        _settings.release()


def _layer_sizes() -> tuple[tuple[int, int], ...]:
    """(inputs, outputs) of the layers that a back end is tested on: all first layers, a hidden one, a head, and
    the largest head that learns."""
    inputs = {expert_layout(expert).inputs for expert in range(EXPERTS)}
    return (*((n, HIDDEN) for n in sorted(inputs)), (HIDDEN, HIDDEN), (HIDDEN, 32), (HEAD_INPUTS, 32))


def self_test(backend: Backend, sizes: tuple[tuple[int, int], ...] | None = None) -> None:
    """Compare the product with int64 arithmetic on worst cases; raises BackendError on one unit's difference.

    The cases hold the largest sums of either sign (where int8 kernels without VNNI saturate) and random numbers.
    ``sizes``: (inputs, outputs) of the layers; by default those of the network.
    """
    with exact_arithmetic(backend.device.type):
        _self_test(backend, sizes or _layer_sizes())


def _self_test(backend: Backend, sizes: tuple[tuple[int, int], ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    for inputs, outputs in sizes:
        for rows in (1, 64, 257):
            x = torch.randint(-128, 128, (rows, inputs), generator=generator, dtype=torch.int8)
            w = torch.randint(-128, 128, (outputs, inputs), generator=generator, dtype=torch.int8)
            x[0], x[rows // 2] = 127, -128
            x[-1] = torch.where(torch.arange(inputs) % 2 == 0, 127, -128).to(torch.int8)
            w[0], w[1], w[2] = 127, -128, x[-1]
            _compare(backend, x, w)
    if backend.device.type != "cpu":
        return
    # heads, which are always on the CPU: their sums by pixel, and those of a learning one's gradient over the pixels
    inputs, outputs = sizes[-1]
    for pixels in (1, 44, LARGEST_BATCH):
        x = torch.randint(-128, 128, (outputs, pixels), generator=generator, dtype=torch.int8)
        u = torch.randint(-128, 128, (pixels, inputs), generator=generator, dtype=torch.int8)
        x[0], x[1], u[:, 0], u[:, 1] = 127, -128, 127, -128
        _compare(backend, x, u.t())
        w = torch.randint(-128, 128, (outputs, inputs), generator=generator, dtype=torch.int8)
        w[0], w[1], w[2] = 127, -128, u[0]
        _compare(backend, w, u)


def _compare(backend: Backend, x: Tensor, w: Tensor) -> None:
    want = x.to(torch.int64) @ w.to(torch.int64).t()
    try:
        got = backend.matmul(x.to(backend.device), w.to(backend.device)).cpu().to(torch.int64)
    except RuntimeError as error:
        raise BackendError(f"back end {backend.name} does not work here: {error}") from error
    if not torch.equal(want, got):
        raise BackendError(f"back end {backend.name} failed its exactness self-test on this machine")


@cache
def backend(device: str = "auto", product: str = "auto", numba: bool | None = None) -> Backend:
    """A back end that has passed its self-test.

    device: ``auto`` (CUDA where there is one), ``cpu``, ``cuda`` or ``cuda:N``. product: ``auto`` (int8, or float32
    where int8 fails its test) or one of PRODUCTS. numba: kernels instead of torch operations (default: on the CPU).

    Raises BackendError when the device is missing or the self-test fails.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise BackendError("no CUDA device is available; use --device cpu")
    try:
        where = torch.device(device)
    except RuntimeError as error:
        raise BackendError(f"unknown device: {device}") from error
    if where.type not in ("cpu", "cuda"):
        raise BackendError(f"unsupported device: {device}; use auto, cpu or cuda")
    use_numba = where.type == "cpu" if numba is None else numba
    if product != "auto":
        if product not in PRODUCTS:
            raise BackendError(f"unknown back end: {product}; use {', '.join(PRODUCTS)}")
        chosen = Backend(where, product, use_numba)
        self_test(chosen)
        return chosen
    try:
        return backend(device, "int8", numba)
    except BackendError:
        return backend(device, "float32", numba)
