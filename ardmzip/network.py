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

#: Matrix products by back end name: int8 GEMM with int32 sums, or float GEMM whose sums stay exact integers.
PRODUCTS = ("int8", "float32", "float64")
#: A float32 sum of integers is exact in any order while no partial sum can reach this.
FLOAT32_EXACT = 1 << 24
ACTIVATION_MAX = 127
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
        kind = torch.float32 if self.product == "float32" else torch.float64
        return (x.to(kind) @ w.to(kind).t()).to(torch.int32)

    def trunk(self, expert: Expert, x: Tensor) -> Tensor:
        """All layers but the head: int8 [n, inputs] -> int8 [n, hidden]."""
        for layer in expert.layers:
            acc = self.matmul(x, layer.weight)
            if self.numba:
                x = torch.empty(acc.shape, dtype=torch.int8)
                _kernels().requantise(acc.numpy(), layer.bias.numpy(), layer.shift.numpy(), x.numpy())
            else:
                x = ((acc + layer.bias) >> layer.shift).clamp(0, ACTIVATION_MAX).to(torch.int8)
        return x

    def head(self, expert: Expert, h: Tensor) -> Tensor:
        """The last layer: int8 [n, hidden] -> int32 [n, outputs] in 1/256."""
        acc = self.matmul(h, expert.halves)
        if self.numba:
            out = torch.empty(len(h), expert.outputs, dtype=torch.int32)
            _kernels().join_halves(acc.numpy(), expert.head_bias.numpy(), out.numpy())
            return out
        padded = acc.shape[1] // 2
        n = expert.outputs
        total = (acc[:, :n] << HEAD_SPLIT) + acc[:, padded : padded + n] + expert.head_bias
        return (total + (1 << (HEAD_SHIFT - 1))) >> HEAD_SHIFT


def _kernels():
    """numba takes a moment to import, and CUDA does not need it."""
    from ardmzip import kernels

    return kernels


_single_lock = threading.Lock()
_single_users = 0
_threads_before = 1


@contextlib.contextmanager
def single_threaded() -> Iterator[int]:
    """torch operations run on the calling thread only, in all threads; yields the number of threads set before.

    Torch has one setting for the process, so overlapping uses share it and the last one restores it.
    """
    global _single_users, _threads_before
    with _single_lock:
        if _single_users == 0:
            _threads_before = torch.get_num_threads()
        _single_users += 1
        torch.set_num_threads(1)
    try:
        yield _threads_before
    finally:
        with _single_lock:
            _single_users -= 1
            if _single_users == 0:
                torch.set_num_threads(_threads_before)


def float32_exact(expert: Expert, input_max: int = 127) -> bool:
    """Whether float32 sums are exact for all layers: max over rows of sum |w| * max |x| < 2**24."""
    rows = [int(layer.weight.to(torch.int64).abs().sum(1).max()) * input_max for layer in expert.layers]
    rows.append(int(expert.halves.to(torch.int64).abs().sum(1).max()) * ACTIVATION_MAX)
    return max(rows) < FLOAT32_EXACT


def self_test(backend: Backend, sizes: tuple[tuple[int, int], ...] = ((96, 256), (176, 256), (256, 256), (256, 32))):
    """Compare the product with int64 arithmetic on worst cases; raises BackendError on one unit's difference.

    The cases hold the largest sums of either sign (where int8 kernels without VNNI saturate) and random numbers.
    """
    generator = torch.Generator().manual_seed(0)
    for inputs, outputs in sizes:
        for rows in (1, 64, 257):
            x = torch.randint(-127, 128, (rows, inputs), generator=generator, dtype=torch.int8)
            w = torch.randint(-127, 128, (outputs, inputs), generator=generator, dtype=torch.int8)
            x[0] = 127
            x[-1] = torch.where(torch.arange(inputs) % 2 == 0, 127, -127).to(torch.int8)
            w[0], w[1], w[2] = 127, -127, x[-1]
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
    torch.backends.cuda.matmul.allow_tf32 = False
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
