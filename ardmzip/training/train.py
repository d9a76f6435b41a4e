"""``ardmzip train CONFIG``: float warm-up, quantisation-aware training, averaged weights, checkpoints that resume.

The length of a run is a time budget: the learning rate falls linearly with the share of it that is used up, so a run
may be stopped and resumed at will, on a slower or a faster machine.
"""

from __future__ import annotations

import copy
import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch

from ardmzip import features, sideinfo
from ardmzip.errors import ArdmError
from ardmzip.image import to_planes
from ardmzip.training.augment import random_crop
from ardmzip.training.data import CROP, Bank, crop_stream, load_sources
from ardmzip.training.images import list_images, split
from ardmzip.training.net import Network, code_length

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


@dataclass
class TrainConfig:
    """One training run. Unknown keys in the TOML file are an error."""

    name: str
    data: list[str]
    #: What the data is and under which licences, for the model card.
    about: str = ""
    #: Trunk layers: 3 x 256 is what 2 CPU cores evaluate in about a second per megapixel.
    hidden: list[int] = field(default_factory=lambda: [256, 256, 256])
    #: Mixture components.
    components: int = 5
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
    slots: int = 800
    #: One fresh crop for so many samples: each crop gives about a twentieth of its sub-pixels.
    samples_per_crop: int = 8000
    #: Weight averaging: decay per step.
    average: float = 0.9995
    seed: int = 1
    workers: int = 1
    threads: int = 0

    @classmethod
    def load(cls, path: Path) -> TrainConfig:
        """Read a TOML file; raises ArdmError for unknown or missing keys."""
        try:
            return cls(**tomllib.loads(path.read_text()))
        except (TypeError, OSError, tomllib.TOMLDecodeError) as error:
            raise ArdmError(f"{path}: {error}") from error


def validation_bank(paths: list[Path], mean: np.ndarray, std: np.ndarray) -> Bank:
    """Unaugmented crops of the held-out images, four of each photograph at fixed random places."""
    rng = np.random.default_rng(0)
    images, _ = load_sources(paths)
    crops = [random_crop(image, CROP, rng) for image in images for _ in range(4 if min(image.shape[:2]) >= CROP else 1)]
    bank = Bank(len(crops), 0, mean, std)
    for slot, crop in enumerate(crops):
        planes = to_planes(crop)
        bank.put(slot, planes, sideinfo.measure(planes))
    return bank


@torch.no_grad()
def validate(net: Network, bank: Bank, quantise: bool, samples: int = 8000) -> float:
    """Bits per sub-pixel on fixed random pixels of the validation bank, experts weighted by their share of pixels."""
    rng = np.random.default_rng(5)
    total = 0.0
    for e, expert in enumerate(net.experts):
        s = bank.sample(e, samples, rng)
        bits = code_length(expert(s.x.float() / 32, quantise), s.target, s.centre, s.scale)
        if e < features.EXPERTS // features.GROUPS:
            total += 0.75 / 9 * float(bits.mean())
        else:
            share = torch.from_numpy(4.0**-s.level / 2.0**-s.level)  # drawn with 2**-level, present with 4**-level
            total += 0.25 / 9 * float((bits * share).sum() / share.sum())
    return total


class Run:
    """State of a training run: everything a checkpoint holds."""

    def __init__(self, config: TrainConfig, folder: Path):
        self.config, self.folder = config, folder
        torch.manual_seed(config.seed)
        self.net = Network(config.hidden, config.components)
        self.average = copy.deepcopy(self.net)
        for p in self.average.parameters():
            p.requires_grad_(False)
        decay = [p for n, p in self.net.named_parameters() if p.ndim == 2]
        plain = [p for n, p in self.net.named_parameters() if p.ndim != 2]
        self.optimiser = torch.optim.AdamW(
            [{"params": decay, "weight_decay": config.weight_decay}, {"params": plain, "weight_decay": 0.0}],
            lr=config.learning_rate, betas=(0.9, 0.99), fused=True,
        )  # fmt: skip
        self.seconds, self.step, self.samples = 0.0, 0, 0
        self.mean, self.std = np.zeros(features.SIDE), np.ones(features.SIDE)

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
        temporary = self.checkpoint.with_suffix(".tmp")
        torch.save(state, temporary)
        temporary.replace(self.checkpoint)

    def load(self) -> None:
        """Continue from the checkpoint."""
        state = torch.load(self.checkpoint, weights_only=True)
        self.net.load_state_dict(state["net"])
        self.average.load_state_dict(state["average"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.seconds, self.step, self.samples = state["seconds"], state["step"], state["samples"]
        self.mean, self.std = np.array(state["mean"]), np.array(state["std"])

    def log(self, **values: object) -> None:
        line = {"minutes": round(self.seconds / 60, 2), "step": self.step, "samples": self.samples, **values}
        with open(self.folder / "log.jsonl", "a") as file:
            file.write(json.dumps(line) + "\n")
        print(json.dumps(line), flush=True)


def resume(config: TrainConfig, folder: Path) -> Run:
    """The run in ``folder``, from its checkpoint if it has one."""
    folder.mkdir(parents=True, exist_ok=True)
    run = Run(config, folder)
    if run.checkpoint.exists():
        run.load()
    return run


def data_split(config: TrainConfig) -> tuple[list[Path], list[Path]]:
    """(training, validation) files of a run: a fixed split by name."""
    paths = list_images([Path(d) for d in config.data])
    if len(paths) < 2:
        raise ArdmError(f"training needs at least two images, {', '.join(config.data)} has {len(paths)}")
    return split(paths, 25)


def train(config: TrainConfig, folder: Path, stop_after: float | None = None) -> Run:
    """Train, or go on with, the run in ``folder``.

    ``stop_after``: minutes of wall time after which to checkpoint and return even though the budget is not used up.
    """
    run = resume(config, folder)
    if run.finished:
        return run
    training, held_out = data_split(config)
    stream = crop_stream(training, config.seed + run.step, config.workers)
    rng = np.random.default_rng([config.seed, run.step])
    first = [next(stream) for _ in range(config.slots)]
    if run.step == 0:
        stats = np.stack([s for _, s in first])
        run.mean, run.std = stats.mean(0), stats.std(0) + 1e-3
    bank = Bank(config.slots, round(config.slots * config.gray), run.mean, run.std)
    for slot in range(config.slots):
        bank.put(slot, *first[slot], with_side=rng.random() >= config.bare)
    validation = validation_bank(held_out, run.mean, run.std)
    # experts are independent, so each thread trains whole experts: no waiting inside an operation
    threads = config.threads or torch.get_num_threads()
    torch.set_num_threads(1)
    pool = ThreadPoolExecutor(threads)
    run.log(event="start", config=asdict(config), training=len(training), held_out=len(held_out))

    budget = config.minutes * 60
    started = mark = time.monotonic()
    saved = logged = validated = run.seconds
    losses: list[float] = []
    pending = 0.0
    coarse = features.EXPERTS // features.GROUPS
    while not run.finished:
        left = 1 - run.seconds / budget
        rate = config.learning_rate * left * min(1.0, (run.step + 1) / 500)
        for group in run.optimiser.param_groups:
            group["lr"] = rate
        quantise = left <= config.quantised_share
        run.optimiser.zero_grad(set_to_none=True)

        def backward(e: int, quantise: bool = quantise, step: int = run.step) -> tuple[float, int]:
            draw = np.random.default_rng([config.seed, step, e])
            s = bank.sample(e, config.batch[0 if e < coarse else 1], draw, config.masked)
            bits = code_length(run.net.experts[e](s.x.float() / 32, quantise), s.target, s.centre, s.scale).mean()
            bits.backward()
            return float(bits.detach()), len(s.target)

        results = list(pool.map(backward, range(features.EXPERTS)))
        loss_sum = sum(bits * (0.75 if e < coarse else 0.25) / coarse for e, (bits, _) in enumerate(results))
        count = sum(n for _, n in results)
        run.samples += count
        pending += count
        run.optimiser.step()
        run.step += 1
        losses.append(loss_sum)
        with torch.no_grad():
            weight = 1 - min(config.average, 1 - 1 / (run.step + 1))
            torch._foreach_lerp_(list(run.average.parameters()), list(run.net.parameters()), weight)
        while pending >= config.samples_per_crop:
            pending -= config.samples_per_crop
            bank.put(int(rng.integers(config.slots)), *next(stream), with_side=rng.random() >= config.bare)

        now = time.monotonic()
        run.seconds += min(now - mark, 5.0)  # a suspended process does not use up its budget
        mark = now
        if run.seconds - logged > 30:
            run.log(loss=round(float(np.mean(losses)), 4), rate=rate, quantised=quantise)
            losses, logged = [], run.seconds
        if run.seconds - saved > 180:
            run.save()
            saved = run.seconds
        if run.seconds - validated > 600:
            run.log(validation=round(validate(run.average, validation, quantise), 4), quantised=quantise)
            validated = run.seconds
        if stop_after is not None and now - started > stop_after * 60:
            break
    pool.shutdown()
    torch.set_num_threads(threads)
    run.save()
    for quantise in (False, True):
        run.log(event="end", validation=round(validate(run.average, validation, quantise), 4), quantised=quantise)
    return run
