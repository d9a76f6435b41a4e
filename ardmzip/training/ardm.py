"""``ardmzip train`` for the models of docs/PAPER.md: small images, random orders, the paper's objective.

A step draws how many sub-pixels are known, uniformly, and which; the loss is the mean number of bits of the others
(arXiv 2110.02037, equations 2 and 3: D times that mean, over all steps, bounds the code length). Checkpoints, logs and
time budget are those of train.py.
"""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor

from ardmzip import tables
from ardmzip.ardm import inputs
from ardmzip.ardm.order import CHANNELS, SIDE, digits, spans
from ardmzip.errors import ArdmError
from ardmzip.image import to_planes
from ardmzip.training import cifar
from ardmzip.training.ardm_net import TIMES, Network, code_length, direct_code_length
from ardmzip.training.data import thumbnail
from ardmzip.training.images import HELD_OUT, list_images, split, stream_images, tiles
from ardmzip.training.train import (
    LOG_SECONDS,
    PRECISIONS,
    SAVE_SECONDS,
    VALIDATE_SECONDS,
    Run,
    average_gradients,
    gradient_threads,
    start_fabric,
    tensorboard,
)

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PARAMETRISATIONS = ("data", "direct")
#: Held-out images that are looked at while training.
VALIDATION_IMAGES = 96


@dataclass
class ArdmConfig:
    """One training run. Unknown keys in the TOML file are an error."""

    name: str
    #: Images, as for other models (train.TrainConfig), cut to 32x32 pixels where they are larger; or CIFAR-10 as
    #: torchvision and Hugging Face store it (cifar.py).
    data: list[str]
    #: Tells these runs from those of lattice models.
    order: str = "random"
    #: What the data is and under which licences, for the model card.
    about: str = ""
    #: Photographs that are scaled down and cut to 32x32 pixels; ``photo_share`` of the samples are of these.
    photos: list[str] = field(default_factory=list)
    photo_share: float = 0.15
    #: Shorter sides of the scaled photographs.
    photo_sides: list[int] = field(default_factory=lambda: [48, 160])
    #: Digits of a stage: 256 for the order-agnostic model, which has one stage; 2, 4 or 16 for upscaling.
    branching: int = 256
    #: ``data``: a mixture of logistics over all values, restricted to what is possible; or ``direct``: a softmax over
    #: the digits of the stage, which needs stages.
    parametrisation: str = "data"
    #: Channels, dilation of each residual block's 3x3 convolution, kernel of its second one, channels before the head.
    width: int = 64
    dilations: list[int] = field(default_factory=lambda: [1, 2, 4, 1])
    second: int = 1
    neck: int = 128
    #: Mixture components.
    components: int = 5
    #: Time budget; the learning rate reaches zero at its end.
    minutes: float = 60.0
    #: Share of the budget that trains with fake quantisation, at the end.
    quantised_share: float = 0.15
    learning_rate: float = 2e-3
    weight_decay: float = 1e-4
    #: Images a step and process.
    batch: int = 16
    #: Share of the batches that are cut to a random size from 8 to 32 pixels a side.
    smaller: float = 0.15
    #: Weight of the paper's extra term: the cross-entropy of the masked sub-pixels, all steps alike.
    cross_entropy: float = 0.0
    #: Weights to start from: the checkpoint of another run, of a network of the same size; stages may be fewer.
    start: str = ""
    #: Weight averaging: decay per step.
    average: float = 0.999
    seed: int = 1
    accelerator: str = "auto"
    precision: str = "auto"
    threads: int = 0

    def __post_init__(self) -> None:
        if self.order != "random":
            raise ArdmError(f"unknown order: {self.order}; these models have a random one")
        if self.parametrisation not in PARAMETRISATIONS or (self.parametrisation == "direct" and self.branching == 256):
            raise ArdmError(f"unknown parametrisation: {self.parametrisation} (direct is for stages)")
        if self.branching not in (2, 4, 16, 256):
            raise ArdmError(f"branching is 2, 4, 16 or 256, not {self.branching}")
        if self.precision not in PRECISIONS:
            raise ArdmError(f"unknown precision: {self.precision}; use {', '.join(PRECISIONS)}")
        if self.second not in (1, 3):
            raise ArdmError(f"the second convolution of a block has a kernel of 1 or 3, not {self.second}")

    @classmethod
    def load(cls, path: Path) -> ArdmConfig:
        """Read a TOML file; raises ArdmError for unknown or missing keys."""
        try:
            return cls(**tomllib.loads(path.read_text()))
        except (TypeError, OSError, tomllib.TOMLDecodeError) as error:
            raise ArdmError(f"{path}: {error}") from error

    def network(self) -> Network:
        """The network, with random weights."""
        return Network(
            self.branching, self.parametrisation, self.width, self.dilations, self.second, self.neck, self.components
        )


def is_random_order(path: Path) -> bool:
    """Whether a configuration is for such a model."""
    try:
        return tomllib.loads(path.read_text()).get("order") == "random"
    except (OSError, ValueError):
        return False  # whoever reads it next says what is wrong


def feature_tables(device: torch.device) -> inputs.Tables:
    """All tables of such a model, on a device."""
    return inputs.Tables({k: torch.from_numpy(v).to(device) for k, v in {**tables.build(), **inputs.build()}.items()})


def _small_images(places: list[str], held_out: bool) -> Iterator[np.ndarray]:
    """Planes uint8 [3, h, w] of images, or of their 32x32 tiles where they are larger."""
    batches = {place: cifar.batches(place) for place in places}
    for path in itertools.chain.from_iterable(batches.values()):
        for number, image in enumerate(cifar.images(path)):
            if (number % HELD_OUT == 0) == held_out:
                yield to_planes(image)
    others = [place for place in places if not batches[place]]
    if not others:
        return
    training, other = split(list_images(others))
    for image in stream_images(other if held_out else training, held_out):
        for tile in tiles(image, SIDE) if max(image.shape[:2]) > SIDE else [image]:
            yield to_planes(np.ascontiguousarray(tile))


def _bank(images: Iterator[np.ndarray]) -> np.ndarray:
    """uint8 [n, 3, 32, 32] of those that have this size."""
    found = [image for image in images if image.shape == (CHANNELS, SIDE, SIDE)]
    return np.stack(found) if found else np.empty((0, CHANNELS, SIDE, SIDE), np.uint8)


def photo_crops(config: ArdmConfig) -> np.ndarray:
    """uint8 [n, 3, 32, 32]: every photograph scaled down, by a random filter to a random size, and cut to tiles."""
    if not config.photos:
        return np.empty((0, CHANNELS, SIDE, SIDE), np.uint8)
    rng = np.random.default_rng(config.seed)
    training, _ = split(list_images(config.photos))
    low, high = config.photo_sides
    scaled = (thumbnail(image, rng, (low, high)) for image in stream_images(training, held_out=False))
    return _bank(to_planes(np.ascontiguousarray(tile)) for image in scaled for tile in tiles(image, SIDE))


def validation_images(config: ArdmConfig, most: int = VALIDATION_IMAGES) -> np.ndarray:
    """Held-out images uint8 [n, 3, 32, 32]."""
    found = _bank(itertools.islice(_small_images(config.data, held_out=True), most))
    if not len(found):
        raise ArdmError(f"no image of {', '.join(config.data[:3])} of {SIDE}x{SIDE} pixels is held out for validation")
    return found


class Batches:
    """Random batches: images, their stages, and which sub-pixels are known."""

    def __init__(self, config: ArdmConfig, images: np.ndarray, photos: np.ndarray, seed: list[int]) -> None:
        self.config, self.images, self.photos = config, images, photos
        self.rng = np.random.default_rng(seed)

    def draw(self) -> np.ndarray:
        """uint8 [batch, 3, h, w], flipped at random."""
        config, rng = self.config, self.rng
        photos = rng.random(config.batch) < (config.photo_share if len(self.photos) else 0.0)
        chosen = self.images[rng.integers(len(self.images), size=config.batch)]
        if photos.any():
            chosen[photos] = self.photos[rng.integers(len(self.photos), size=int(photos.sum()))]
        flip = rng.random(config.batch) < 0.5
        chosen[flip] = chosen[flip, :, :, ::-1]
        if rng.random() < config.smaller:
            (height, width) = rng.integers(8, SIDE + 1, size=2)
            top, left = rng.integers(SIDE + 1 - height), rng.integers(SIDE + 1 - width)
            chosen = chosen[:, :, top : top + height, left : left + width]
        return np.ascontiguousarray(chosen)

    def known(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """How many sub-pixels are known, spread evenly over the batch, int64 [n], and which, bool of the shape of
        ``images``."""
        n, size = len(images), images[0].size
        count = ((self.rng.permutation(n) + self.rng.random(n)) * size / n).astype(np.int64)
        rank = self.rng.random((n, size)).argsort(1).argsort(1)
        return count, (rank < count[:, None]).reshape(images.shape)


def bits_of_unknown(
    net: Network, images: Tensor, mask: Tensor, count: Tensor, tabs: inputs.Tables, quantise: bool, stages: list[int],
    autocast: AbstractContextManager[Any] | None = None,
) -> Tensor:  # fmt: skip
    """The mean bits of the digits that are not known: float [len(images)]. Equal parts of the images are in each of
    ``stages``."""
    found = []
    per, size = len(images) // len(stages), images[0].numel()
    after = spans(net.branching)
    for k, stage in enumerate(stages):
        part = slice(k * per, (k + 1) * per)
        span, finer = after[stage], after[stage + 1]
        value, known = images[part].int(), mask[part]
        low = torch.where(known, value - value % finer, value - value % span).to(torch.uint8)
        found.append((inputs.inputs(low, known, span, finer, tabs, torch.float32), stage))
    x = torch.cat([i.x for i, _ in found]).float() / tables.INPUT_ONE
    stage_rows = torch.tensor(stages, device=count.device).repeat_interleave(per) * TIMES
    row = stage_rows + TIMES * count[: len(x)] // size
    with autocast or nullcontext():
        outputs = net(x, row, quantise)
    bits = []
    for k, (i, stage) in enumerate(found):
        part = slice(k * per, (k + 1) * per)
        b, c, y, x_ = (~mask[part]).nonzero(as_tuple=True)
        value = images[part][b, c, y, x_].int()
        span, finer = after[stage], after[stage + 1]
        own = outputs[part][b, y, x_, c]
        if net.direct:
            each = direct_code_length(own, value, span, finer)
        else:
            scale = torch.exp2((i.cls[b, y, x_].float() - tables.CLASSES_PER_OCTAVE) / tables.CLASSES_PER_OCTAVE)
            each = code_length(own, value, span, finer, i.centre[b, c, y, x_].float() / tables.UNIT, scale)
        left = size - count[part]
        bits.append(torch.zeros(per, device=each.device).index_add(0, b, each) / left)
    return torch.cat(bits)


@torch.no_grad()
def validate(net: Network, images: np.ndarray, quantise: bool, draws: int = 2) -> float:
    """Bits per sub-pixel, over all stages: the bound on the code length, by random steps that are always the same."""
    device = next(net.parameters()).device
    tabs = feature_tables(device)
    stages = len(digits(net.branching))
    total = 0.0
    batches = Batches(ArdmConfig("validation", []), images, images[:0], [5])
    for _ in range(draws):
        for stage in range(stages):
            count, mask = batches.known(images)
            for first in range(0, len(images), 32):
                part = slice(first, first + 32)
                image, known, number = (torch.from_numpy(a[part]).to(device) for a in (images, mask, count))
                total += float(bits_of_unknown(net, image, known, number, tabs, quantise, [stage]).sum())
    return total / draws / len(images)


def train(config: ArdmConfig, folder: Path, stop_after: float | None = None, steps: int | None = None) -> Run:
    """Train, or go on with, the run in ``folder``; arguments as for train.train."""
    run = resume(config, folder)
    if run.finished:
        return run
    fabric = start_fabric(config.accelerator, precision(config))
    images = _bank(_small_images(config.data, held_out=False))
    if not len(images):
        raise ArdmError(f"no image of {', '.join(config.data[:3])} has {SIDE}x{SIDE} pixels or more")
    photos = photo_crops(config)
    held_out = validation_images(config)
    run.to(fabric.device)
    if fabric.is_global_zero:
        run.tensorboard = tensorboard(folder)
        parameters = sum(p.numel() for p in run.net.parameters())
        run.log(event="start", config=asdict(config), training=len(images), photos=len(photos), parameters=parameters)
    try:
        batches = Batches(config, images, photos, [config.seed, run.step, fabric.global_rank])
        with gradient_threads(config.threads) as pool:
            _steps(run, fabric, pool, batches, held_out, stop_after, steps)
        run.to(torch.device("cpu"))
        if fabric.is_global_zero:
            run.save()
            for quantise in (False, True):
                bits = round(validate(run.average, held_out, quantise), 4)
                run.log(event="end", validation=bits, quantised=quantise)
    finally:
        if run.tensorboard:
            run.tensorboard.finalize("")
    fabric.barrier()
    return run


def resume(config: ArdmConfig, folder: Path) -> Run:
    """The run in ``folder``, from its checkpoint if it has one."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(config.seed)
    run = Run(config, folder, config.network())
    if run.checkpoint.exists():
        run.load()
    elif config.start:
        _start(run)
    return run


def _start(run: Run) -> None:
    """Take the weights that the configuration says to begin with; those of a model with fewer stages have fewer rows of
    biases, which all stages begin with then."""
    state = torch.load(run.config.start, weights_only=True)["average"]
    for name, own in run.net.state_dict().items():
        found = state[name].float()
        if found.ndim == 3 and own.shape[1] % found.shape[1] == 0:
            found = found.repeat(1, own.shape[1] // found.shape[1], 1)
        own.copy_(found)
    run.average.load_state_dict(run.net.state_dict())


def _steps(
    run: Run, fabric: Fabric, pool: ThreadPoolExecutor, batches: Batches, held_out: np.ndarray,
    stop_after: float | None, steps: int | None,
) -> None:  # fmt: skip
    """As train.train; the main process logs and saves meanwhile."""
    tabs = feature_tables(fabric.device)
    mark = time.monotonic()
    began = saved = logged = validated = run.seconds
    last = None if steps is None else run.step + steps
    losses: list[float] = []
    stopping = False
    while not (run.finished or stopping):
        rate, quantise = run.pace()
        drawn = batches.draw()
        count, mask = batches.known(drawn)
        loss = _gradients(run, fabric, pool, [torch.from_numpy(a) for a in (drawn, mask, count)], tabs, quantise)
        now = time.monotonic()
        seconds = min(now - mark, 5.0)  # a suspended process does not use up its budget
        mark = now
        seconds, loss, samples = average_gradients(fabric, run.net, (seconds, loss, len(drawn)))
        torch.nn.utils.clip_grad_norm_(run.net.parameters(), 1.0)
        run.advance(seconds, round(samples * fabric.world_size))
        losses.append(loss)
        stopping = run.step == last or (stop_after is not None and run.seconds - began > stop_after * 60)
        if not fabric.is_global_zero:
            continue
        if run.seconds - logged > LOG_SECONDS or run.finished or stopping:
            run.log(loss=round(float(np.mean(losses)), 4), rate=rate, quantised=quantise)
            losses, logged = [], run.seconds
        if run.seconds - saved > SAVE_SECONDS:
            run.save()
            saved = run.seconds
        if run.seconds - validated > VALIDATE_SECONDS:
            run.log(validation=round(validate(run.average, held_out, quantise), 4), quantised=quantise)
            validated = run.seconds


def _gradients(
    run: Run, fabric: Fabric, pool: ThreadPoolExecutor, batch: list[Tensor], tabs: inputs.Tables, quantise: bool
) -> float:  # fmt: skip
    """Leave this process's gradients of a step in the network; returns the loss in bits per sub-pixel.

    batch: images, which sub-pixels are known, and how many. The pool's threads share it, and none waits inside an
    operation.
    """
    config: ArdmConfig = run.config
    stages = list(range(len(digits(config.branching))))
    parameters = list(run.net.parameters())
    size = batch[0][0].numel()
    shares = max(1, min(pool._max_workers, config.batch // len(stages)))
    each = config.batch // shares // len(stages) * len(stages)

    def work(index: int) -> tuple[float, tuple[Tensor, ...]]:
        image, known, count = (t[index * each : (index + 1) * each].to(fabric.device) for t in batch)
        bits = bits_of_unknown(run.net, image, known, count, tabs, quantise, stages, fabric.autocast())
        loss = len(stages) * bits.mean() / shares
        extra = len(stages) * (bits * (1 - count / size)).mean() / shares
        gradients = torch.autograd.grad(loss + config.cross_entropy * extra, parameters)
        return float(loss.detach()), gradients

    results = list(pool.map(work, range(shares)))
    for parameter, *gradients in zip(parameters, *(found for _, found in results), strict=True):
        parameter.grad = torch.stack(gradients).sum(0)
    return sum(loss for loss, _ in results)


def precision(config: ArdmConfig) -> str:
    """``bf16-mixed`` on a processor whose convolutions are faster so, else ``32-true``."""
    if config.precision != "auto":
        return config.precision
    if config.accelerator != "cpu" and torch.cuda.is_available():
        return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "32-true"
    net = config.network()
    x, row = torch.randn(4, SIDE, SIDE, inputs.INPUTS), torch.zeros(4, dtype=torch.int64)
    seconds = {}
    for mixed in (False, True):
        with gradient_threads(1), torch.autocast("cpu", torch.bfloat16, enabled=mixed):
            times = []
            for _ in range(4):
                begun = time.perf_counter()
                net(x, row, False).sum().backward()
                times.append(time.perf_counter() - begun)
        seconds[mixed] = min(times)
    return "bf16-mixed" if seconds[True] < seconds[False] else "32-true"
