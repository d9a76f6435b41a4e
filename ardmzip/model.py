"""Model files: ``models/NAME.safetensors`` with integer weights, tables, loss matrices and a card."""

from __future__ import annotations

import contextlib
import hashlib
import json
import struct
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ardmzip import tables
from ardmzip.codes import Keys
from ardmzip.container import MODEL_ID_BYTES
from ardmzip.errors import ModelError

if TYPE_CHECKING:
    import torch

    from ardmzip.learning import Start
    from ardmzip.network import Expert

SUFFIX = ".safetensors"
FORMAT = "1"
#: Bounds of int32 sums (network.py): the largest |input|, what the head adds to round, and the most mixture components
#: whose weights, at most 2**16 each, can be added.
_INPUT_MAX, _ROUNDING, _MAX_COMPONENTS = 128, 64, 1 << 14
_PACKAGE = Path(__file__).parent
#: Where models live: inside the installed package, or beside it in a checkout.
FOLDERS = (_PACKAGE / "_models", _PACKAGE.parent / "models")


@dataclass
class Model:
    """A loaded model. ``tensors`` holds the integers that decide a file; their hash is the id."""

    #: Whether it codes in a random order (ardm.model.RandomModel), not in that of the lattice.
    random_order: ClassVar[bool] = False

    name: str
    id: bytes
    card: dict
    tensors: dict[str, np.ndarray]
    #: Loss tables float32 [T, T] by number of channels: bits per sub-pixel of atom r when those before t are known.
    loss: dict[int, np.ndarray]
    side_mean: np.ndarray
    side_std: np.ndarray
    #: Learning curve: bits a sub-pixel that a head gains from as many pixels as schedule.learning_grid tells, float32.
    learning_gain: np.ndarray = field(default_factory=lambda: np.zeros(2, np.float32))
    #: By which an encoder chooses codes to try; None for a model without codes.
    keys: Keys | None = None
    _on_device: dict[str, tuple[list[Expert], dict[str, torch.Tensor]]] = field(
        init=False, default_factory=dict, repr=False
    )
    _untaught: dict[int, Start] = field(init=False, default_factory=dict, repr=False)

    @property
    def tables(self) -> dict[str, np.ndarray]:
        """Integer tables (tables.py) by name."""
        return {k.removeprefix("table."): v for k, v in self.tensors.items() if k.startswith("table.")}

    def on(self, device: torch.device) -> tuple[list[Expert], dict[str, torch.Tensor]]:
        """Experts and tables as tensors on a device; kept for the next call."""
        key = str(device)
        if key not in self._on_device:
            import torch

            tables = {k: torch.from_numpy(v).to(device) for k, v in self.tables.items()}
            self._on_device[key] = ([e.to(device) for e in _experts(self.tensors)], tables)
        return self._on_device[key]

    @property
    def codes(self) -> np.ndarray:
        """Side information that small images name by a number (codes.py): int8 [n, SIDE], n = 0 if there is none."""
        from ardmzip.features import SIDE

        return self.tensors.get("side.codes", np.empty((0, SIDE), np.int8))

    @property
    def learns(self) -> bool:
        """Whether the model tells how its heads learn."""
        return "learning.0.basis" in self.tensors

    @property
    def learn_by_default(self) -> bool:
        """Whether its heads learn unless the user says otherwise: those of a fast model do not."""
        return self.learns and self.card.get("recipe", {}).get("learn", True) is not False

    def untaught(self, expert: int) -> Start:
        """What the learning head of an expert begins with; kept for the next image."""
        from ardmzip import learning

        if expert not in self._untaught:
            self._untaught[expert] = learning.start(self.tensors, expert)
        return self._untaught[expert]


def _experts(tensors: dict[str, np.ndarray]) -> list[Expert]:
    import torch

    from ardmzip.features import EXPERTS
    from ardmzip.network import Expert, Layer, split_head

    experts = []
    for e in range(EXPERTS):
        layers, i = [], 0
        while f"expert.{e}.{i}.weight" in tensors:
            parts = (torch.from_numpy(tensors[f"expert.{e}.{i}.{part}"]) for part in ("weight", "bias", "shift"))
            layers.append(Layer(*parts))
            i += 1
        head = torch.from_numpy(split_head(tensors[f"expert.{e}.head.weight"]))
        experts.append(Expert(tuple(layers), head, torch.from_numpy(tensors[f"expert.{e}.head.bias"])))
    return experts


def sums_fit(weight: np.ndarray, bias: np.ndarray) -> bool:
    """Whether no sum of a layer can leave int32."""
    sums = np.abs(weight).sum(1, dtype=np.int64) * _INPUT_MAX + np.abs(bias.astype(np.int64))
    return int(sums.max()) + _ROUNDING < 2**31


def check(tensors: dict[str, np.ndarray]) -> None:
    """Raise ModelError unless docs/FORMAT.md, "The model", describes these tensors, and no sum leaves int32."""
    from ardmzip import contexts, learning
    from ardmzip.codes import MAX_CODES
    from ardmzip.features import EXPERTS, SIDE, expert_layout

    left = set(tensors)
    learns = any(name.startswith("learning.") for name in tensors)

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

    def take_layer(name: str, kind: type, inputs: int, low: int, high: int) -> int:
        weight = take(f"{name}.weight", kind, (None, inputs), low, high)
        bias = take(f"{name}.bias", np.int32, (len(weight),), -(2**31), 2**31 - 1)
        if not sums_fit(weight, bias):
            raise ModelError(f"the sums of {name} leave 32 bits")
        return len(weight)

    def take_learning(e: int, hidden: int, outputs: int) -> None:
        inputs = learning.head_inputs(hidden, e)
        basis = take(f"learning.{e}.basis", np.int8, (None, inputs), -127, 127)
        take(f"learning.{e}.mix", np.int32, (outputs, outputs), -learning.MIX_ONE, learning.MIX_ONE)
        take(f"learning.{e}.rate", np.int32, (len(basis),), 0, 2**31 - 1)
        bias = np.abs(tensors[f"expert.{e}.head.bias"].astype(np.int64)).max()
        most_offset = contexts.TABLES * contexts.OFFSET_MAX >> contexts.FINE_BITS
        if len(basis) > learning.MAX_DIRECTIONS or inputs > learning.MAX_INPUTS:
            raise ModelError(f"learning head {e} has {inputs} inputs and {len(basis)} directions")
        if inputs * _INPUT_MAX * (learning.HALVES_MAX + 1) + bias + most_offset + _ROUNDING >= 2**31:
            raise ModelError(f"the sums of learning head {e} leave 32 bits")

    for table, (kind, length, low, high) in tables.LIMITS.items():
        take(f"table.{table}", kind, (length,), low, high)
    if (np.diff(tensors["table.logistic"]) < 0).any():
        raise ModelError("tensor table.logistic falls")
    for e in range(EXPERTS):
        width, i = expert_layout(e).inputs, 0
        while i == 0 or f"expert.{e}.{i}.weight" in tensors:
            width = take_layer(f"expert.{e}.{i}", np.int8, width, -127, 127)
            take(f"expert.{e}.{i}.shift", np.int32, (width,), 0, 31)
            i += 1
        outputs = take_layer(f"expert.{e}.head", np.int16, width, -(2**14), 2**14 - 1)
        if outputs % 3 or outputs > 3 * _MAX_COMPONENTS:
            raise ModelError(f"expert {e} has {outputs} outputs")
        if learns:
            take_learning(e, width, outputs)
    if "side.codes" in tensors and len(take("side.codes", np.int8, (None, SIDE), -127, 127)) > MAX_CODES:
        raise ModelError(f"more than {MAX_CODES} codes")
    if left:
        raise ModelError(f"unknown tensor {min(left)}")


def check_statistics(
    loss: dict[int, np.ndarray], side_mean: np.ndarray, side_std: np.ndarray, codes: int, keys: Keys | None
) -> None:
    """The same for what only the encoder reads: loss tables, the statistics of side information, and keys of codes."""
    from ardmzip.features import KINDS, SIDE

    for channels, table in loss.items():
        n = len(table) if table.ndim == 2 else 0
        if n == 0 or table.shape != (n, n) or n % (KINDS * channels) or not np.isfinite(np.triu(table)).all():
            raise ModelError(f"its loss table for {channels} channels is not valid")
    finite = np.isfinite(side_mean).all() and np.isfinite(side_std).all()
    if side_mean.shape != (SIDE,) or side_std.shape != (SIDE,) or not finite or not (side_std > 0).all():
        raise ModelError("its side information statistics are not valid")
    if (keys is None) != (codes == 0) or (keys is not None and keys.keys.shape != (codes, SIDE)):
        raise ModelError("its codes and their keys do not match")
    if keys is not None and not (
        keys.root.shape == (SIDE, SIDE) and np.isfinite(keys.keys).all() and np.isfinite(keys.root).all()
    ):
        raise ModelError("its keys are not valid")


def model_id(tensors: dict[str, np.ndarray]) -> bytes:
    """First bytes of the SHA-256 over the names, shapes and little-endian contents of the integer tensors."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        array = tensors[name]
        digest.update(f"{name} {array.dtype.str[1:]} {array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes())
    return digest.digest()[:MODEL_ID_BYTES]


def save(path: Path, name: str, tensors: dict[str, np.ndarray], loss: dict[int, np.ndarray], side_mean: np.ndarray,
         side_std: np.ndarray, card: dict, learning_gain: np.ndarray | None = None,
         keys: Keys | None = None) -> bytes:  # fmt: skip
    """Write a model file; returns its id."""
    from safetensors.numpy import save_file

    gain = np.zeros(2) if learning_gain is None else learning_gain
    made = Model(name, model_id(tensors), card, tensors, loss, side_mean, side_std, gain, keys)
    everything, metadata = _contents(made)
    if learning_gain is None:
        del everything["learning.gain"]
    save_file(everything, path, metadata)
    forget()
    path.chmod(0o644)  # safetensors writes private files
    return made.id


def to_bytes(model: Model) -> bytes:
    """A model as the bytes of its file."""
    from safetensors.numpy import save

    return save(*_contents(model))


def _contents(model: Model) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The arrays of a model file, and its metadata."""
    everything = {f"int.{k}": np.ascontiguousarray(v) for k, v in model.tensors.items()}
    everything |= {f"loss.{channels}": table.astype(np.float32) for channels, table in model.loss.items()}
    everything |= {"side.mean": model.side_mean.astype(np.float64), "side.std": model.side_std.astype(np.float64)}
    everything |= {"learning.gain": model.learning_gain.astype(np.float32)}
    if model.keys is not None:
        everything |= {"side.keys": model.keys.keys, "side.root": model.keys.root}
    return everything, {
        "format": FORMAT, "name": model.name, "id": model.id.hex(), "card": json.dumps(model.card)
    }  # fmt: skip


def available() -> dict[str, Path]:
    """Model files by name; looks at file names only."""
    found: dict[str, Path] = {}
    for folder in FOLDERS:
        for path in sorted(folder.glob(f"*{SUFFIX}")) if folder.is_dir() else []:
            found.setdefault(path.stem, path)
    return found


def read_metadata(path: Path) -> dict[str, str]:
    """The metadata of a model file: format, name, id (hex), card (JSON). Reads the header only."""
    try:
        with open(path, "rb") as file:
            (size,) = struct.unpack("<Q", file.read(8))
            if size > 100_000_000:
                raise ModelError(f"{path} is not a model file")
            metadata = json.loads(file.read(size))["__metadata__"]
            if not all(isinstance(metadata.get(key), str) for key in ("format", "name", "id", "card")):
                raise ModelError(f"{path} is not an ardmzip model")
            return metadata
    except OSError as error:
        raise ModelError(f"cannot read model {path}: {error.strerror}") from error
    except (struct.error, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{path} is not a model file") from error


def names_by_id() -> dict[bytes, str]:
    """Names of the available models by id."""
    names: dict[bytes, str] = {}
    for name, path in available().items():
        with contextlib.suppress(ModelError, ValueError):  # a damaged model does not hide the others
            names.setdefault(bytes.fromhex(read_metadata(path)["id"]), name)
    return names


def load(name: str | Path) -> Model:
    """Load a model by name or by the path of its file; raises ModelError."""
    return _load(_path(name))


def check_name(name: str | Path) -> None:
    """Raise ModelError unless ``load`` finds a model file; only its head is read."""
    read_metadata(_path(name))


def _path(name: str | Path) -> Path:
    models = available()
    if str(name) in models:
        return models[str(name)].resolve()
    path = Path(name)
    if path.suffix == SUFFIX or path.exists():
        return path.resolve()
    raise ModelError(f"unknown model: {name} (available: {', '.join(models) or 'none'})")


def named(identity: bytes) -> list[str]:
    """Names of the available models whose id begins so."""
    return [name for whole, name in names_by_id().items() if whole.startswith(identity)]


def find(identity: bytes) -> Model:
    """The available model whose id begins so, which files in the short form do not tell whole; raises ModelError."""
    names = named(identity)
    if len(names) > 1:
        raise ModelError(f"the file needs model {identity.hex()}, which may be {' or '.join(names)}: name one of them")
    if names:
        return load(names[0])
    raise ModelError(f"the file needs model {identity.hex()}, which is not installed")


def forget() -> None:
    """Read model files again: one has been written."""
    _load.cache_clear()


@lru_cache(maxsize=8)
def _load(path: Path) -> Model:
    metadata = read_metadata(path)
    if metadata["format"] != FORMAT:
        raise ModelError(f"{path}: unknown model format {metadata['format']}")
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        everything = load_file(path)
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path}: damaged model file") from error
    tensors = {k.removeprefix("int."): v for k, v in everything.items() if k.startswith("int.")}
    if model_id(tensors).hex() != metadata["id"]:
        raise ModelError(f"{path}: damaged model file, its id does not match its contents")
    try:
        if "kind" in metadata:
            from ardmzip.ardm import model as random_order

            return random_order.load(metadata, tensors)
        loss = {channels: everything[f"loss.{channels}"] for channels in (1, 3)}
        side_mean, side_std = everything["side.mean"], everything["side.std"]
        keys = Keys(everything["side.keys"], everything["side.root"]) if "side.keys" in everything else None
        check(tensors)
        check_statistics(loss, side_mean, side_std, len(tensors.get("side.codes", ())), keys)
        card = json.loads(metadata["card"])
        if not isinstance(card, dict) or not isinstance(card.get("recipe", {}), dict):
            raise ModelError("its card is not valid")
        gain = everything.get("learning.gain", np.zeros(2, np.float32))
        if gain.ndim != 1 or len(gain) < 2 or not np.isfinite(gain).all():
            raise ModelError("its learning curve is not valid")
        identity = bytes.fromhex(metadata["id"])
        return Model(metadata["name"], identity, card, tensors, loss, side_mean, side_std, gain, keys)
    except ModelError as error:
        raise ModelError(f"{path}: not a valid model: {error}") from error
    except (KeyError, ValueError) as error:
        raise ModelError(f"{path}: damaged model file") from error
