"""Model files of these models: like those of model.py, with other tensors (docs/FORMAT.md, "Random order")."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ardmzip import tables
from ardmzip.ardm import inputs, order, schedule
from ardmzip.errors import ModelError
from ardmzip.model import FORMAT, Model, model_id

if TYPE_CHECKING:
    import torch

    from ardmzip.ardm.network import Network
    from ardmzip.network import Backend

#: What the metadata of such a file says under ``kind``.
KIND = "random-order"
TIMES_MAX = 1 << 10
_INPUT_MAX, _ACTIVATION_MAX, _ROUNDING = 128, 127, 64
_LOSS_MAX = 1 << 20


@dataclass
class RandomModel(Model):
    """A loaded model of these; what only lattice models have is empty."""

    random_order: ClassVar[bool] = True

    _networks: dict[str, Network] = field(init=False, default_factory=dict, repr=False)
    _calls: dict[tuple[int, int, int], schedule.Calls] = field(init=False, default_factory=dict, repr=False)

    @property
    def branching(self) -> int:
        """Digits of a stage, or 256 for whole values in one stage."""
        return int(self.tensors["form"][0])

    @property
    def stages(self) -> int:
        return len(order.digits(self.branching))

    @property
    def seed(self) -> int:
        """The seed of the order that suits it best."""
        return int(self.card.get("seed", 1))

    def loss_for(self, size: int) -> np.ndarray:
        """L_t in 2**-16 bits of blocks of ``size`` sub-pixels: int64 [stages, size]."""
        return schedule.stretch(self.tensors["loss"], size)

    def calls(self, size: int, count: int, kind: int) -> schedule.Calls:
        """Where the network calls of a block begin, by stage; kept for the next block."""
        key = size, count, kind
        if key not in self._calls:
            self._calls[key] = schedule.calls(self.loss_for(size), count, kind)
        return self._calls[key]

    def network(self, backend: Backend) -> Network:
        """The network on a back end, which has proved itself on its layers; kept for the next call."""
        if backend.name not in self._networks:
            from ardmzip.network import self_test

            found = _network(self.tensors)
            self_test(backend, found.sizes)
            self._networks[backend.name] = found.to(backend.device)
        return self._networks[backend.name]


def _network(tensors: Mapping[str, np.ndarray]) -> Network:
    import torch

    from ardmzip.ardm.network import Conv, Network
    from ardmzip.network import Expert, split_head

    def get(name: str) -> torch.Tensor:
        return torch.from_numpy(tensors[name])

    convs = []
    for i, (kernel, dilation) in enumerate(tensors["layers"].tolist()):
        convs.append(Conv(get(f"conv.{i}.weight"), get(f"conv.{i}.bias"), get(f"conv.{i}.shift"), kernel, dilation))
    head = Expert((), torch.from_numpy(split_head(tensors["head.weight"])), get("head.bias"))
    tabs = {k.removeprefix("table."): get(k) for k in tensors if k.startswith("table.")}
    branching, direct, times = tensors["form"].tolist()
    return Network(tuple(convs), head, inputs.Tables(tabs), branching, bool(direct), times)


def check(tensors: Mapping[str, np.ndarray]) -> None:
    """Raise ModelError unless docs/FORMAT.md describes these tensors, and no sum leaves int32."""
    left = set(tensors)

    def take(name: str, kind: type, shape: tuple[int | None, ...], low: int, high: int) -> np.ndarray:
        if name not in tensors:
            raise ModelError(f"tensor {name} is missing")
        left.discard(name)
        array = tensors[name]
        fits = array.ndim == len(shape) and all(want in (None, n) for n, want in zip(array.shape, shape, strict=True))
        if array.dtype != kind or not fits or 0 in array.shape:
            raise ModelError(f"tensor {name} is {array.dtype} {array.shape}")
        if array.min() < low or array.max() > high:
            raise ModelError(f"tensor {name} has values out of its range of {low} to {high}")
        return array

    for name, (kind, length, low, high) in (tables.LIMITS | inputs.LIMITS).items():
        take(f"table.{name}", kind, (length,), low, high)
    if (np.diff(tensors["table.logistic"]) < 0).any():
        raise ModelError("tensor table.logistic falls")
    branching, direct, times = take("form", np.int32, (3,), 0, max(order.VALUES, TIMES_MAX)).tolist()
    if branching not in (2, 4, 16, order.VALUES) or direct > (branching < order.VALUES) or not 1 <= times <= TIMES_MAX:
        raise ModelError(f"tensor form is {branching}, {direct}, {times}")
    stages = len(order.digits(branching))
    loss = take("loss", np.int32, (stages, order.CHANNELS * order.SIDE**2), 1, _LOSS_MAX)
    if (np.diff(loss, axis=1) > 0).any():
        raise ModelError("tensor loss rises")
    layers = take("layers", np.int32, (None, 2), 1, order.SIDE)
    if len(layers) % 2 or len(layers) < 2 or not set(layers[:, 0].tolist()) <= {1, 3}:
        raise ModelError("tensor layers is not a first layer, blocks of two, and a last layer")
    width, before = inputs.INPUTS, 0
    for i, (kernel, _) in enumerate(layers.tolist()):
        weight = take(f"conv.{i}.weight", np.int8, (None, kernel * kernel * width), -127, 127)
        bias = take(f"conv.{i}.bias", np.int32, (None, len(weight)), -(2**31), 2**31 - 1)
        shift = take(f"conv.{i}.shift", np.int32, (len(weight),), 0, 20)
        around = i % 2 == 0 and 0 < i < len(layers) - 1  # the second layer of a block
        if len(bias) not in (1, times * stages) or (around and len(weight) != before):
            raise ModelError(f"layer {i} does not fit the others")
        sums = np.abs(weight).sum(1, dtype=np.int64) * _INPUT_MAX + np.abs(bias.astype(np.int64)).max(0)
        if (sums + (_ACTIVATION_MAX << shift.astype(np.int64))).max() + _ROUNDING >= 2**31:
            raise ModelError(f"the sums of layer {i} leave 32 bits")
        if i % 2 == 0:
            before = len(weight)
        width = len(weight)
    head = take("head.weight", np.int16, (None, width), -(2**14), 2**14 - 1)
    bias = take("head.bias", np.int32, (len(head),), -(2**31), 2**31 - 1)
    sums = np.abs(head).sum(1, dtype=np.int64) * _INPUT_MAX + np.abs(bias.astype(np.int64))
    if sums.max() + _ROUNDING >= 2**31:
        raise ModelError("the sums of the head leave 32 bits")
    outputs = len(head) // order.CHANNELS
    if len(head) % order.CHANNELS or (outputs != branching if direct else outputs % 3 or outputs > 3 << 14):
        raise ModelError(f"the head has {len(head)} outputs")
    if left:
        raise ModelError(f"unknown tensor {min(left)}")


def load(metadata: Mapping[str, str], tensors: dict[str, np.ndarray]) -> RandomModel:
    """The model of a file's contents; its id has been compared."""
    if metadata["kind"] != KIND:
        raise ModelError(f"unknown kind of model: {metadata['kind']}")
    check(tensors)
    card = json.loads(metadata["card"])
    if not isinstance(card, dict) or not isinstance(card.get("seed", 1), int):
        raise ModelError("its card is not valid")
    none = np.empty(0)
    return RandomModel(metadata["name"], bytes.fromhex(metadata["id"]), card, tensors, {}, none, none)


def save(path: Path, name: str, tensors: dict[str, np.ndarray], card: dict[str, Any]) -> bytes:
    """Write a model file; returns its id."""
    from safetensors.numpy import save_file

    from ardmzip import model

    identity = model_id(tensors)
    metadata = {"format": FORMAT, "kind": KIND, "name": name, "id": identity.hex(), "card": json.dumps(card)}
    save_file({f"int.{k}": np.ascontiguousarray(v) for k, v in tensors.items()}, path, metadata)
    model.forget()
    path.chmod(0o644)  # safetensors writes private files
    return identity


def require(model: Model) -> RandomModel:
    """The model, which must be one of these."""
    if not isinstance(model, RandomModel):
        raise ModelError(f"model {model.name} codes in the lattice order, not in a random one")
    return model
