"""``ardmzip train CONFIG``: float warm-up, quantisation-aware training, averaged weights, checkpoints that resume.

The length of a run is a time budget: the learning rate falls linearly with the share of it that is used up, so a run
may be stopped and resumed at will, on a slower or a faster machine.

Several processes, one for each GPU, train together where torchrun starts them. The data and every step's samples come
in ``parts``, each process takes some of the parts, and gradients are averaged: so the result does not depend on how
many processes there are, but for rounding.
"""

from __future__ import annotations

import contextlib
import copy
import csv
import itertools
import json
import os
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from lightning_fabric.loggers import TensorBoardLogger

from ardmzip import features, sideinfo
from ardmzip.codes import Keys
from ardmzip.errors import ArdmError
from ardmzip.image import to_planes
from ardmzip.likelihood import code_length
from ardmzip.training.augment import AugmentConfig, random_crop
from ardmzip.training.codes import assign, cluster, fisher_root
from ardmzip.training.data import Bank, CropConfig, Samples, crop_stream, thumbnail
from ardmzip.training.images import list_images, split, stream_images
from ardmzip.training.net import Expert, Network

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def _frozen(value: Any) -> Any:
    """Tuples in place of lists."""
    return tuple(map(_frozen, value)) if isinstance(value, list) else value


@dataclass
class TrainConfig:
    """One training run. Unknown keys in the TOML file are an error."""

    name: str
    #: Images: folders, files, URLs or patterns of any file system that fsspec knows; tar shards as WebDataset has them.
    data: list[str]
    #: What the data is and under which licences, for the model card.
    about: str = ""
    #: Trunk layers: 3 x 256 is what 2 CPU cores evaluate in about a second per megapixel.
    hidden: list[int] = field(default_factory=lambda: [256, 256, 256])
    #: Mixture components.
    components: int = 5
    #: Whether the heads learn while coding unless the user says otherwise: a fast model does without.
    learn: bool = True
    #: Time budget; the learning rate reaches zero at its end.
    minutes: float = 90.0
    #: Share of the budget that trains with fake quantisation, at the end.
    quantised_share: float = 0.15
    learning_rate: float = 2e-3
    weight_decay: float = 1e-4
    #: Samples per step for each expert of level 0 and of the coarser levels (a quarter of all pixels).
    batch: list[int] = field(default_factory=lambda: [800, 250])
    #: Share of samples with hidden preceding atoms, so that network calls can be merged.
    masked: float = 0.1
    #: Share of the bank's crops that are gray images.
    gray: float = 0.08
    #: Share of the crops without side information: small images carry none.
    bare: float = 0.1
    #: Codes: side information that small images name by a byte (codes.py), for all crops; 0 for their own.
    codes: int = 0
    #: Weights to start from: the checkpoint of another run, of a network of the same size.
    start: str = ""
    #: How crops are cut (data.CropConfig): side, share of thumbnails, weight of sheets, images in memory.
    crop: int = 256
    thumbnails: float = 0.0
    sheets: float = 0.25
    memory: int = 4000
    #: What is done to crops, by name, where it is not what augment.AugmentConfig says.
    augment: dict[str, Any] = field(default_factory=dict)
    #: Crops in memory.
    slots: int = 800
    #: One fresh crop for so many samples: each crop gives about a twentieth of its sub-pixels.
    samples_per_crop: int = 8000
    #: Weight averaging: decay per step.
    average: float = 0.9995
    seed: int = 1
    #: Parts of the data and of every step's samples: at least as many as there are processes.
    parts: int = 1
    #: ``auto``, ``cpu`` or ``cuda``; and ``32-true``, ``bf16-mixed`` or ``auto``, the faster one of them.
    accelerator: str = "auto"
    precision: str = "auto"
    workers: int = 1
    threads: int = 0

    @property
    def crops(self) -> CropConfig:
        augment = AugmentConfig(**{name: _frozen(value) for name, value in self.augment.items()})
        return CropConfig(self.crop, self.thumbnails, sheets=self.sheets, memory=self.memory, augment=augment)

    @classmethod
    def load(cls, path: Path) -> TrainConfig:
        """Read a TOML file; raises ArdmError for unknown or missing keys, and for values of ``augment`` that make no
        sense."""
        try:
            found = cls(**tomllib.loads(path.read_text()))
            if not isinstance(found.augment, dict):
                raise ValueError("augment must be a table")
            found.crops.augment.check()
            return found
        except (TypeError, OSError, ValueError) as error:
            raise ArdmError(f"{path}: {error}") from error


#: How often a run logs, saves a checkpoint and validates.
LOG_SECONDS, SAVE_SECONDS, VALIDATE_SECONDS = 30, 180, 600
#: How often fresh crops are given the best of several codes.
ASSIGN_STEPS = 100
#: Held-out images to look at: so many are enough.
VALIDATION_IMAGES = 1000


def _load(checkpoint: Path) -> dict[str, Any]:
    """A checkpoint, on the CPU whatever it was saved from."""
    state: dict[str, Any] = torch.load(checkpoint, map_location="cpu", weights_only=True)
    return state


def validation_crops(sources: list[str], config: CropConfig) -> list[np.ndarray]:
    """Unaugmented crops of the held-out images: four of each photograph at fixed random places, of which as many are
    thumbnails as in training."""
    rng = np.random.default_rng(0)
    crops = []
    for image in itertools.islice(stream_images(sources, held_out=True), VALIDATION_IMAGES):
        for _ in range(4 if min(image.shape[:2]) >= config.size else 1):
            small = thumbnail(image, rng, config.small) if rng.random() < config.thumbnails else image
            crops.append(random_crop(small, config.size, rng))
    if not crops:
        raise ArdmError(f"no image of {', '.join(sources[:3])} is held out for validation: there are too few")
    return crops


def validation_bank(crops: list[np.ndarray], run: Run) -> Bank:
    """A bank of such crops, for a run."""
    bank = Bank(len(crops), 0, run.mean, run.std, run.config.crop, run.keys)
    for slot, crop in enumerate(crops):
        planes = to_planes(crop)
        bank.put(slot, planes, sideinfo.measure(planes))
    if run.keys is not None:
        with gradient_threads(run.config.threads) as pool:
            assign(run.average, bank, run.keys, range(len(crops)), pool)
    return bank


#: Steps of one expert that are timed to find the faster precision.
TRIALS = 10
#: Experts from this one on are those of the coarser levels.
COARSE = features.EXPERTS // features.GROUPS


def share(expert: int) -> float:
    """The share of an expert's pixels in an image, experts of a group being alike."""
    return (0.75 if expert < COARSE else 0.25) / COARSE


@torch.no_grad()
def validate(net: Network, bank: Bank, quantise: bool, samples: int = 8000) -> float:
    """Bits per sub-pixel on fixed random pixels of the validation bank, experts weighted by their share of pixels."""
    rng = np.random.default_rng(5)
    device = next(net.parameters()).device
    total = 0.0
    for e, expert in enumerate(net.experts):
        s = bank.sample(e, samples, rng).to(device)
        bits = code_length(expert(net.inputs(e, s), quantise), s.target, s.centre, s.scale)
        weight = torch.ones(len(bits), device=device)
        if e >= COARSE:
            weight = torch.from_numpy(2.0**-s.level).to(device)  # drawn with 2**-level, present with 4**-level
        total += share(e) * float((bits * weight).sum() / weight.sum())
    return total


@torch.no_grad()
def update_average(average: torch.nn.Module, net: torch.nn.Module, decay: float, step: int) -> None:
    """Move averaged weights towards those of a network after ``step`` steps; the first ones all count alike."""
    weight = 1 - min(decay, 1 - 1 / (step + 1))
    torch._foreach_lerp_(list(average.parameters()), list(net.parameters()), weight)


#: Numbers of a run over time, in log.csv and TensorBoard; log.jsonl has all there is to tell.
COLUMNS = ("step", "minutes", "samples", "loss", "rate", "validation", "quantised")


class Run:
    """State of a training run: everything a checkpoint holds."""

    def __init__(self, config: Any, folder: Path, net: Any = None):
        """config: a TrainConfig, or that of other models, whose network is ``net``."""
        self.config, self.folder = config, folder
        torch.manual_seed(config.seed)
        self.net: Any = Network(config.hidden, config.components, config.codes) if net is None else net
        self.average: Any = copy.deepcopy(self.net)
        for p in self.average.parameters():
            p.requires_grad_(False)
        decay = [p for n, p in self.net.named_parameters() if p.ndim == 2]
        plain = [p for n, p in self.net.named_parameters() if p.ndim != 2]
        self.optimiser = torch.optim.AdamW(
            [{"params": decay, "weight_decay": config.weight_decay}, {"params": plain, "weight_decay": 0.0}],
            lr=config.learning_rate, betas=(0.9, 0.99), fused=True,
        )  # fmt: skip
        self.seconds, self.step, self.samples = 0.0, 0, 0
        self.mean, self.std, self.knows_side = np.zeros(features.SIDE), np.ones(features.SIDE), False
        self.keys: Keys | None = None
        self.tensorboard: TensorBoardLogger | None = None

    def pace(self) -> tuple[float, bool]:
        """(learning rate, whether to quantise) of the next step."""
        left = 1 - self.seconds / (self.config.minutes * 60)
        rate = self.config.learning_rate * left * min(1.0, (self.step + 1) / 500)
        return rate, left <= self.config.quantised_share

    def advance(self, seconds: float, samples: int) -> None:
        """Take a step along the gradients, which so many samples gave in so many seconds."""
        rate, _ = self.pace()
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.optimiser.step()
        self.step += 1
        self.seconds += seconds
        self.samples += samples
        update_average(self.average, self.net, self.config.average, self.step)

    def to(self, device: torch.device) -> None:
        """Move networks and the optimiser's state to a device."""
        self.net.to(device)
        self.average.to(device)
        self.optimiser.load_state_dict(self.optimiser.state_dict())  # follows its parameters

    @property
    def finished(self) -> bool:
        """Whether the time budget is used up."""
        return self.seconds >= self.config.minutes * 60

    @property
    def checkpoint(self) -> Path:
        return self.folder / "checkpoint.pt"

    def save(self) -> None:
        """Write the checkpoint atomically."""
        state = {
            "config": asdict(self.config), "net": self.net.state_dict(), "average": self.average.state_dict(),
            "optimiser": self.optimiser.state_dict(), "seconds": self.seconds, "step": self.step,
            "samples": self.samples, "mean": self.mean.tolist(), "std": self.std.tolist(),
        }  # fmt: skip
        if self.keys is not None:
            state["keys"] = {name: array.tolist() for name, array in vars(self.keys).items()}
        temporary = self.checkpoint.with_suffix(".tmp")
        torch.save(state, temporary)
        temporary.replace(self.checkpoint)

    def start(self) -> None:
        """Take the weights that the configuration says to begin with, mean and deviation of the side information that
        they have learned to read, and the keys of codes."""
        state = _load(Path(self.config.start))
        has_codes = getattr(self.net, "codes", None) is not None
        if has_codes and "codes" not in state["average"]:
            state["average"]["codes"] = self.net.codes.detach()  # the run before had none
        self._check_size(state)
        self.net.load_state_dict({name: tensor.float() for name, tensor in state["average"].items()})
        self.average.load_state_dict(self.net.state_dict())
        self._take_side_information(state)

    def load(self) -> None:
        """Continue from the checkpoint."""
        state = _load(self.checkpoint)
        self._check_size(state)
        self.net.load_state_dict(state["net"])
        self.average.load_state_dict(state["average"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.seconds, self.step, self.samples = state["seconds"], state["step"], state["samples"]
        self._take_side_information(state)

    def _take_side_information(self, state: dict[str, Any]) -> None:
        """Take mean and deviation of the side information, and the keys, if there are any, that belong to them."""
        self.knows_side = True
        self.mean, self.std = np.array(state["mean"]), np.array(state["std"])
        if "keys" in state:
            self.keys = Keys(*(np.array(state["keys"][name]) for name in ("keys", "root")))

    def _check_size(self, state: dict[str, Any]) -> None:
        """Raise ArdmError if a checkpoint is of a network of another size."""
        nets = state["average"], self.net.state_dict()
        shapes = [{name: tensor.shape for name, tensor in net.items()} for net in nets]
        if shapes[0] != shapes[1]:
            raise ArdmError("the checkpoint to go on from is of a network of another size (hidden, components)")

    def log(self, **values: object) -> None:
        """Add a line to the logs of the run."""
        line = {"minutes": round(self.seconds / 60, 2), "step": self.step, "samples": self.samples, **values}
        with open(self.folder / "log.jsonl", "a") as file:
            file.write(json.dumps(line) + "\n")
        print(json.dumps(line), flush=True)
        numbers: dict[str, Any] = {name: value for name, value in line.items() if name in COLUMNS}
        path = self.folder / "log.csv"
        rows = [COLUMNS] * (not path.exists()) + [[numbers.get(name, "") for name in COLUMNS]]
        with open(path, "a", newline="") as file:
            csv.writer(file).writerows(rows)
        if self.tensorboard:
            self.tensorboard.log_metrics({name: float(value) for name, value in numbers.items()}, self.step)


def resume(config: TrainConfig, folder: Path) -> Run:
    """The run in ``folder``, from its checkpoint if it has one."""
    folder.mkdir(parents=True, exist_ok=True)
    run = Run(config, folder)
    if run.checkpoint.exists():
        run.load()
    elif config.start:
        run.start()
    return run


def data_split(config: TrainConfig) -> tuple[list[str], list[str]]:
    """(training, validation) sources of a run: a fixed split by name."""
    sources = list_images(config.data)
    training, held_out = split(sources)
    if not held_out:
        raise ArdmError(f"training needs at least two images, {', '.join(config.data)} has {len(sources)}")
    return training, held_out


class Part:
    """One part of the data: a bank of crops that is renewed as its samples are used."""

    def __init__(self, config: TrainConfig, index: int, step: int, sources: list[str]) -> None:
        self._config, self._index = config, index
        self._stream = crop_stream(sources, config.seed + 1000 * index + step, config.workers, config.crops)
        self._rng = np.random.default_rng([config.seed, step, index])
        self._pending = 0.0
        #: Crops that are new since codes were given to them.
        self.fresh: list[int] = []
        self._slots = max(1, config.slots // config.parts)
        self._first = [next(self._stream) for _ in range(self._slots)]
        self.statistics = np.stack([stats for _, stats in self._first])

    def fill(self, mean: np.ndarray, std: np.ndarray) -> None:
        """Make the bank. mean, std: of the statistics that are sent as side information."""
        self.bank = Bank(self._slots, round(self._slots * self._config.gray), mean, std, self._config.crop)
        for slot, (planes, stats) in enumerate(self._first):
            self._put(slot, planes, stats)
        del self._first

    def _put(self, slot: int, planes: np.ndarray, stats: np.ndarray) -> None:
        self.bank.put(slot, planes, stats, with_side=self._rng.random() >= self._config.bare)

    def draw(self, expert: int, step: int) -> Samples:
        """This part's samples of a step for an expert."""
        config = self._config
        batch = config.batch[0 if expert < COARSE else 1] // config.parts
        rng = np.random.default_rng([config.seed, step, expert, self._index])
        return self.bank.sample(expert, max(batch, 1), rng, config.masked)

    def renew(self, samples: int) -> None:
        """Replace as many crops as so many samples have used up."""
        self._pending += samples
        while self._pending >= self._config.samples_per_crop:
            self._pending -= self._config.samples_per_crop
            slot = int(self._rng.integers(self._slots))
            self._put(slot, *next(self._stream))
            self.fresh.append(slot)


def _fabric(config: TrainConfig) -> Fabric:
    """The engine: it knows of the processes that torchrun has started, of devices and of mixed precision."""
    if config.precision not in PRECISIONS:
        raise ArdmError(f"unknown precision: {config.precision}; use {', '.join(PRECISIONS)}")
    world = int(os.environ.get("WORLD_SIZE", 1))
    if world > config.parts or config.parts % world:
        raise ArdmError(f"{config.parts} part(s) cannot be shared by {world} processes: set parts in the configuration")
    precision = faster_precision(config) if config.precision == "auto" else config.precision
    return start_fabric(config.accelerator, precision)


def start_fabric(accelerator: str, precision: str) -> Fabric:
    """The same, whatever is trained."""
    world, local = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    fabric = Fabric(
        accelerator=accelerator, devices=local, num_nodes=world // local, precision=precision,  # type: ignore[arg-type]
        strategy="ddp" if world > 1 else "auto",
    )  # fmt: skip
    fabric.launch()
    return fabric


PRECISIONS = ("auto", "32-true", "bf16-mixed")


def faster_precision(config: TrainConfig) -> str:
    """``bf16-mixed`` on a GPU that has it, and on a CPU on which an expert trains faster so; else ``32-true``.

    Several processes on CPUs might not agree, so they take ``32-true``.
    """
    if config.accelerator != "cpu" and torch.cuda.is_available():
        return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "32-true"
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        return "32-true"
    expert, x = Expert(160, config.hidden, config.components), torch.randn(config.batch[0], 160)
    seconds = {}
    with gradient_threads(1):
        for mixed in (False, True):
            with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
                times = []
                for _ in range(TRIALS):
                    begun = time.perf_counter()
                    expert(x, False).sum().backward()
                    times.append(time.perf_counter() - begun)
            seconds[mixed] = min(times)
    return "bf16-mixed" if seconds[True] < seconds[False] else "32-true"


def tensorboard(folder: Path) -> TensorBoardLogger | None:
    """A writer of TensorBoard's files, where that is installed."""
    try:
        return TensorBoardLogger(folder, name="tensorboard", version="")
    except ModuleNotFoundError:
        return None


def train(config: TrainConfig, folder: Path, stop_after: float | None = None, steps: int | None = None) -> Run:
    """Train, or go on with, the run in ``folder``.

    ``stop_after``, ``steps``: minutes and steps after which to checkpoint and return before the budget is used up.
    """
    run = resume(config, folder)
    if run.finished:
        return run
    fabric = _fabric(config)
    main, device = fabric.is_global_zero, fabric.device
    training, held_out = data_split(config)
    parts = [
        Part(config, index, run.step, training)
        for index in range(fabric.global_rank, config.parts, fabric.world_size)
    ]  # fmt: skip
    if not run.knows_side:
        moments = np.stack([(p.statistics.mean(0), (p.statistics**2).mean(0)) for p in parts]).mean(0)
        first, second = torch.as_tensor(fabric.all_reduce(torch.from_numpy(moments), reduce_op="mean")).numpy(
            force=True
        )
        run.mean, run.std = first, np.sqrt(np.maximum(second - first**2, 0)) + 1e-3
        run.knows_side = True
    for part in parts:
        part.fill(run.mean, run.std)
    if config.codes:
        _make_codes(run, fabric, parts)
    validation = None  # only the main process looks at it
    if main:
        validation = validation_bank(validation_crops(held_out, config.crops), run)
    run.to(device)
    if main:
        run.tensorboard = tensorboard(folder)
        run.log(event="start", config=asdict(config), training=len(training), held_out=len(held_out))
    try:
        _steps(run, fabric, parts, validation, stop_after, steps)
        run.to(torch.device("cpu"))
        if validation is not None:
            run.save()
            for quantise in (False, True):
                bits = round(validate(run.average, validation, quantise), 4)
                run.log(event="end", validation=bits, quantised=quantise)
    finally:
        if run.tensorboard:
            run.tensorboard.finalize("")
    fabric.barrier()
    return run


def _make_codes(run: Run, fabric: Fabric, parts: list[Part]) -> None:
    """Let the crops have codes; those of a run that has none yet come from the crops of the first part."""
    if run.keys is None:
        bank = parts[0].bank
        side = bank.own_side[bank.side[:, 0] > 0]
        made = cluster(side, fisher_root(run.net, bank), run.config.codes, run.config.seed)
        run.keys, codes = fabric.broadcast(made)
        with torch.no_grad():
            for net in (run.net, run.average):
                net.codes.copy_(torch.from_numpy(codes / 32))
    for part in parts:
        part.bank.take_codes(run.keys)
        part.fresh = list(range(part.bank.filled))


def _steps(
    run: Run, fabric: Fabric, parts: list[Part], validation: Bank | None, stop_after: float | None, steps: int | None
) -> None:  # fmt: skip
    """Take steps until the time budget is used up, or as ``train`` says; the main process logs and saves meanwhile."""
    mark = time.monotonic()
    began = saved = logged = validated = run.seconds
    last = None if steps is None else run.step + steps
    losses: list[float] = []
    stopping = False
    with gradient_threads(run.config.threads) as pool:
        while not (run.finished or stopping):
            rate, quantise = run.pace()
            if run.keys is not None and run.step % ASSIGN_STEPS == 0:
                for part in parts:
                    assign(run.net, part.bank, run.keys, part.fresh, pool)
                    part.fresh.clear()
            loss, count = _gradients(run, fabric, parts, pool, quantise)
            now = time.monotonic()
            seconds = min(now - mark, 5.0)  # a suspended process does not use up its budget
            mark = now
            # all processes must agree on the time as well
            seconds, loss, count = average_gradients(fabric, run.net, (seconds, loss, count))
            run.advance(seconds, round(count * fabric.world_size))
            losses.append(loss)
            stopping = run.step == last or (stop_after is not None and run.seconds - began > stop_after * 60)
            if validation is None:
                continue
            if run.seconds - logged > LOG_SECONDS or run.finished or stopping:
                run.log(loss=round(float(np.mean(losses)), 4), rate=rate, quantised=quantise)
                losses, logged = [], run.seconds
            if run.seconds - saved > SAVE_SECONDS:
                run.save()
                saved = run.seconds
            if run.seconds - validated > VALIDATE_SECONDS:
                run.log(validation=round(validate(run.average, validation, quantise), 4), quantised=quantise)
                validated = run.seconds


@contextlib.contextmanager
def gradient_threads(threads: int) -> Iterator[ThreadPoolExecutor]:
    """A pool of so many threads (0: as many as torch takes), in which torch works on one thread each: experts are
    independent, so each thread trains whole experts and none waits inside an operation."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(threads or before) as pool:
            yield pool
    finally:
        torch.set_num_threads(before)


def _gradients(
    run: Run, fabric: Fabric, parts: list[Part], pool: ThreadPoolExecutor, quantise: bool
) -> tuple[float, float]:  # fmt: skip
    """Leave this process's gradients of a step in the network; returns (loss in bits per sub-pixel, samples)."""
    run.optimiser.zero_grad(set_to_none=True)

    def backward(expert: int) -> tuple[float, list[int]]:
        bits, counts = 0.0, []
        for part in parts:
            s = part.draw(expert, run.step).to(fabric.device)
            with fabric.autocast():
                outputs = run.net.experts[expert](run.net.inputs(expert, s), quantise)
            loss = code_length(outputs, s.target, s.centre, s.scale).mean() / len(parts)
            loss.backward()
            bits += float(loss.detach())
            counts.append(len(s.target))
        return bits, counts

    results = list(pool.map(backward, range(features.EXPERTS)))
    drawn = np.array([counts for _, counts in results]).sum(0)
    for part, count in zip(parts, drawn, strict=True):
        part.renew(int(count))
    return sum(bits * share(expert) for expert, (bits, _) in enumerate(results)), float(drawn.sum())


def average_gradients(fabric: Fabric, net: torch.nn.Module, numbers: tuple[float, ...]) -> list[float]:
    """Average the gradients of a network over all processes, and some numbers, which are returned."""
    if fabric.world_size == 1:
        return list(numbers)
    gradients = [p.grad for p in net.parameters() if p.grad is not None]
    extra = torch.tensor(numbers, dtype=torch.float32, device=gradients[0].device)
    flat = torch.cat([*(g.reshape(-1) for g in gradients), extra])
    flat = fabric.all_reduce(flat, reduce_op="mean")  # type: ignore[assignment]
    start = 0
    for gradient in gradients:
        gradient.copy_(flat[start : start + gradient.numel()].view_as(gradient))
        start += gradient.numel()
    return flat[start:].tolist()
