"""The search for a network: variants of it, trained in equal processor time, compared on held-out photographs.

    python -m bench.search CONFIG [--variants NAME...|--further] [--seconds 30] [--experts 0 4]

prints a table of bits per sub-pixel with a frozen head and with a learning one (docs/TRAINING.md has it). All variants
see the same 800 crops, those of one batch size the same pixels in the same order; a budget is seconds of one thread,
samples and weight averaging included, but not what further inputs are made of. Variants begin with random weights,
or with those of ``photo``.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ardmzip.errors import ArdmError

if TYPE_CHECKING:
    import torch

    from ardmzip.model import Model
    from ardmzip.training.data import Bank
    from ardmzip.training.train import TrainConfig
    from bench.further import GenericPredictors, Windows
    from bench.learned import Pixels

#: Crops to train on, and those of them by which heads find out how to learn. A crop of 256x256 pixels has 16,384 pixels
#: for each expert.
CROPS, BASIS_CROPS = 800, 64
#: Held-out photographs, plain and processed, and most pixels a side that they are cut to.
PHOTOGRAPHS, SIDE = 8, 512
#: Weights of ``photo`` (docs/TRAINING.md), and its model file.
TRAINED, MODEL = Path("docs/training/photo-long.pt"), "photo"
#: What the kernels have room for.
MOST_TAPS = 64
#: Channels of a coarse trunk: three convolutions of 3x3.
COARSE_CHANNELS = 32


@dataclass(frozen=True)
class Variant:
    """What is trained, and how; the defaults are those of ``photo``."""

    hidden: tuple[int, ...] = (256, 256, 256)
    components: int = 5
    residual: bool = False
    #: The taps of a window of so many pixels a side are read; more than 7 needs other samples, and so another process.
    window: int = 7
    #: Side information: all 22 numbers, or how many of the first ones.
    side: int = 22
    optimiser: str = "adamw"
    rate: float = 2e-3
    batch: int = 800
    average: float = 0.9995
    #: Whether crops are augmented.
    augmented: bool = True
    #: Further inputs (further.KINDS).
    further: str = ""
    #: Whether it begins with the weights of ``photo``.
    trained: bool = False

    @property
    def radius(self) -> int:
        return max(3, self.window // 2)


BASE = Variant()
#: Further inputs have no effect at first; the rate is that at which training goes on.
CONTINUED = Variant(trained=True, rate=8e-4)
#: From scratch; and from the weights of ``photo``, where ``photo`` itself stays as it is.
SCRATCH = {
    "base": BASE,
    "K 3": replace(BASE, components=3),
    "K 8": replace(BASE, components=8),
    "K 12": replace(BASE, components=12),
    "1 layer": replace(BASE, hidden=(256,)),
    "2 layers": replace(BASE, hidden=(256,) * 2),
    "4 layers": replace(BASE, hidden=(256,) * 4),
    "5 layers": replace(BASE, hidden=(256,) * 5),
    "residual": replace(BASE, residual=True),
    "5 layers residual": replace(BASE, hidden=(256,) * 5, residual=True),
    "2 layers of 384": replace(BASE, hidden=(384,) * 2),
    "4 layers of 192": replace(BASE, hidden=(192,) * 4),
    "5x5": replace(BASE, window=5),
    "9x9": replace(BASE, window=9),
    "coarse trunk": replace(BASE, further="coarse trunk"),
    "no side information": replace(BASE, side=0),
    "6 statistics": replace(BASE, side=6),
    "batch 400": replace(BASE, batch=400, rate=1.4e-3),
    "batch 1600": replace(BASE, batch=1600, rate=2.8e-3),
    "batch 3200": replace(BASE, batch=3200, rate=4e-3),
    "rate 1e-3": replace(BASE, rate=1e-3),
    "rate 4e-3": replace(BASE, rate=4e-3),
    "no weight averaging": replace(BASE, average=0.0),
    "average 0.998": replace(BASE, average=0.998),
    "Muon": replace(BASE, optimiser="muon", rate=1e-2),
    "Muon batch 1600": replace(BASE, optimiser="muon", rate=1e-2, batch=1600),
    "RAdam": replace(BASE, optimiser="radam"),
    "not augmented": replace(BASE, augmented=False),
}
FURTHER = {
    "photo": replace(CONTINUED, rate=0.0),
    "photo trained on": CONTINUED,
    "photo + coarse trunk": replace(CONTINUED, further="coarse trunk"),
    "photo + 11x11": replace(CONTINUED, further="ring"),
    "photo + wide statistics": replace(CONTINUED, further="wide"),
    "photo + fitted prediction": replace(CONTINUED, further="fitted"),
    "photo + generic prediction": replace(CONTINUED, further="generic"),
    "photo + coding errors": replace(CONTINUED, further="errors"),
    "photo + fitted prediction + coding errors": replace(CONTINUED, further="fitted, errors"),
}
VARIANTS = SCRATCH | FURTHER


@dataclass
class Data:
    """Crops to train on, and held-out photographs, plain and the same processed: planes uint8 [3, height, width]."""

    bank: Bank
    crops: list[np.ndarray]
    photographs: list[np.ndarray]
    #: Pixels of the first crops and of all photographs, by expert.
    basis: dict[int, list[Pixels]]
    held_out: dict[int, list[Pixels]]
    generic: GenericPredictors
    _windows: dict[tuple[str, int], tuple[Windows, Windows]] = field(default_factory=dict)

    def windows(self, kind: str, expert: int) -> tuple[Windows | None, Windows | None]:
        """What a kind of further inputs sees of the crops and of the photographs."""
        from bench import further

        if not kind:
            return None, None
        if (kind, expert) not in self._windows:
            crops, photographs = (
                further.windows(kind, part, expert, self.generic) for part in (self.crops, self.photographs)
            )
            self._windows[kind, expert] = crops, photographs
        return self._windows[kind, expert]


def training_crops(config: TrainConfig, count: int, augmented: bool) -> list[np.ndarray]:
    """Planes uint8 [3, height, width] of crops of the training images."""
    from ardmzip.image import to_planes
    from ardmzip.training import data
    from ardmzip.training.augment import augment, random_crop
    from ardmzip.training.train import data_split

    rng = np.random.default_rng(config.seed)
    pool = data.image_pool(data_split(config)[0], rng, config.crops)
    crops = [random_crop(image, config.crop, rng) for image in itertools.islice(pool, count)]
    if augmented:
        crops = [
            random_crop(augment(np.ascontiguousarray(crop), rng, config.crops.augment), config.crop, rng)
            for crop in crops
        ]
    return [to_planes(crop) for crop in crops]


def held_out_photographs(config: TrainConfig) -> list[np.ndarray]:
    """Planes of held-out photographs, cut to SIDE, as they are, and then of the same ones processed."""
    from ardmzip.image import to_planes
    from ardmzip.training.augment import augment, random_crop
    from ardmzip.training.images import stream_images
    from ardmzip.training.train import data_split

    rng = np.random.default_rng(config.seed)
    found = stream_images(data_split(config)[1], held_out=True)
    large = (image for image in found if min(image.shape[:2]) >= config.crop)
    plain = [np.ascontiguousarray(random_crop(image, SIDE, rng)) for image in itertools.islice(large, PHOTOGRAPHS)]
    processed = [random_crop(augment(image, rng, config.crops.augment), SIDE, rng) for image in plain]
    return [to_planes(image) for image in (*plain, *processed)]


def make_data(config: TrainConfig, model: Model, augmented: bool, experts: list[int]) -> Data:
    """model: the one that tells how side information is made."""
    from ardmzip import sideinfo
    from ardmzip.training.data import Bank
    from bench.further import GenericPredictors
    from bench.learned import pixels

    crops, photographs = training_crops(config, CROPS, augmented), held_out_photographs(config)
    bank = Bank(len(crops), 0, model.side_mean, model.side_std, config.crop)
    for slot, planes in enumerate(crops):
        bank.put(slot, planes, sideinfo.measure(planes))
    basis, held_out = (pixels(part, model, experts) for part in (crops[:BASIS_CROPS], photographs))
    return Data(bank, crops, photographs, basis, held_out, GenericPredictors(crops))


def make_net(variant: Variant, expert: int, numbers: int = 0) -> Any:
    """A float network for an expert of level 0: ``net(net.inputs(x, windows), False)`` gives outputs float [n, 3 K].

    numbers: of the windows of the further inputs, 0 if there are none; a coarse trunk makes its own of them.
    """
    import torch
    from torch.nn.functional import hardtanh, linear

    from ardmzip import features
    from ardmzip.tables import INPUT_ONE
    from ardmzip.training.net import ACTIVATION_MAX, Expert

    class Net(Expert):
        def __init__(self) -> None:
            inputs = features.expert_layout(expert).inputs
            coarse = variant.further == "coarse trunk"
            super().__init__(
                inputs + (COARSE_CHANNELS if coarse else numbers), list(variant.hidden), variant.components
            )
            with torch.no_grad():
                self.weights[0][:, inputs:] = 0
            self.coarse = None
            if coarse:
                layers = [torch.nn.Conv2d(n, COARSE_CHANNELS, 3) for n in (6, COARSE_CHANNELS, COARSE_CHANNELS)]
                self.coarse = torch.nn.Sequential(
                    *itertools.chain(*((layer, torch.nn.Hardtanh(0, ACTIVATION_MAX)) for layer in layers))
                )

        def inputs(self, x: torch.Tensor, windows: np.ndarray | None) -> torch.Tensor:
            """As ``forward`` takes them. x: int8 [n, inputs]; windows: int16 [n, side, side, numbers]."""
            scaled = x.float() / INPUT_ONE
            if windows is None:
                return scaled
            w = torch.from_numpy(windows).float().permute(0, 3, 1, 2)
            if self.coarse is None:
                return torch.cat([scaled, w[:, :, 0, 0] / INPUT_ONE], 1)
            w[:, 1:] -= w[:, :1]  # G, R-G, B-G
            d = w - w[:, :, w.shape[2] // 2, w.shape[3] // 2][:, :, None, None]
            activity = d.abs().mean((2, 3), keepdim=True) + 0.5
            companded = d.sign() * torch.log1p(d.abs() / activity)
            seen = torch.cat([companded, (torch.log2(activity) / 2).expand_as(d)], 1)
            return torch.cat([scaled, self.coarse(seen)[:, :, 0, 0].float()], 1)

        def trunk(self, x: torch.Tensor, quantise: bool) -> torch.Tensor:
            if not variant.residual:
                return super().trunk(x, quantise)
            for w, b in zip(self.weights, self.biases, strict=True):
                y = hardtanh(linear(x, w, b), 0.0, ACTIVATION_MAX)
                x = y if y.shape != x.shape else torch.clamp(x + y, max=ACTIVATION_MAX)
            return x

    torch.manual_seed(1)
    net = Net()
    if variant.trained:
        weights = torch.load(TRAINED, map_location="cpu", weights_only=True)["average"]
        for name, own in net.named_parameters():
            if f"experts.{expert}.{name}" in weights:
                trained = weights[f"experts.{expert}.{name}"]
                own.data[..., : trained.shape[-1]] = trained
    return net


def inputs_read(variant: Variant, expert: int) -> np.ndarray:
    """Which inputs a variant reads: bool [inputs]."""
    from ardmzip import features

    lay = features.expert_layout(expert)
    found = np.ones(lay.inputs, bool)
    within = np.abs(lay.offsets).max(1) <= variant.window // 2
    taps = [within[: lay.taps(plane)] for plane in range(features.CHANNELS)]
    found[: sum(map(len, taps))] = np.concatenate(taps)
    found[lay.side.start + variant.side : lay.side.stop] = False
    return found


def make_optimiser(variant: Variant, net: torch.nn.Module) -> list[torch.optim.Optimizer]:
    import torch

    if variant.optimiser == "muon":
        if not hasattr(torch.optim, "Muon"):
            raise ArdmError("Muon needs torch 2.9 or newer")
        trunk = [p for name, p in net.named_parameters() if name.startswith("weights")]
        others = [p for name, p in net.named_parameters() if not name.startswith("weights")]
        muon = torch.optim.Muon(trunk, lr=variant.rate, weight_decay=0.0, adjust_lr_fn="match_rms_adamw")
        return [muon, torch.optim.AdamW(others, lr=2e-3, betas=(0.9, 0.99), weight_decay=0.0, fused=True)]
    matrices, others = [p for p in net.parameters() if p.ndim == 2], [p for p in net.parameters() if p.ndim != 2]
    groups: list[dict[str, Any]] = [{"params": matrices, "weight_decay": 1e-4}, {"params": others, "weight_decay": 0.0}]
    if variant.optimiser == "radam":
        return [torch.optim.RAdam(groups, lr=variant.rate, betas=(0.9, 0.99), decoupled_weight_decay=True)]
    return [torch.optim.AdamW(groups, lr=variant.rate, betas=(0.9, 0.99), fused=True)]


def train_variant(variant: Variant, expert: int, data: Data, seconds: float) -> tuple[Any, int]:
    """The network, with averaged weights, and how many samples it has seen."""
    import torch

    from ardmzip.likelihood import code_length
    from ardmzip.training.train import update_average

    mask = torch.from_numpy(inputs_read(variant, expert))
    further, _ = data.windows(variant.further, expert)
    net = make_net(variant, expert, further.array.shape[-1] if further else 0)
    average = copy.deepcopy(net).requires_grad_(False)
    optimisers = make_optimiser(variant, net)
    rates = [group["lr"] for optimiser in optimisers for group in optimiser.param_groups]
    begun, seen, step = time.thread_time(), 0, 0
    while (used := (time.thread_time() - begun) / seconds) < 1:
        groups = [group for optimiser in optimisers for group in optimiser.param_groups]
        for group, rate in zip(groups, rates, strict=True):
            group["lr"] = rate * (1 - used) * min(1.0, (step + 1) / 200)
        places = data.bank.places(expert, variant.batch, np.random.default_rng([step, expert]))
        s = data.bank.read(expert, places, np.zeros(len(places.slots), np.int64))
        windows = further.read(places.slots, places.row // 2, places.column // 2) if further else None
        with torch.autocast("cpu", torch.bfloat16):
            outputs = net(net.inputs(s.x * mask, windows), False)
        loss = code_length(outputs, s.target, s.centre, s.scale).mean()
        net.zero_grad(set_to_none=True)
        loss.backward()
        for optimiser in optimisers:
            optimiser.step()
        step, seen = step + 1, seen + len(s.target)
        update_average(average, net, variant.average, step)
    return average, seen


def measure(variant: Variant, expert: int, data: Data, model: Model, net: Any) -> np.ndarray:
    """Mean bits per sub-pixel of plain and of processed photographs, with a frozen head and a learning one:
    float64 [4]."""
    from bench.learned import Learned, head_tensors

    def trunk(x: torch.Tensor, windows: np.ndarray | None) -> torch.Tensor:
        outputs: torch.Tensor = net.trunk(net.inputs(x, windows), False)
        return outputs

    of_crops, of_photographs = data.windows(variant.further, expert)
    learned = Learned(head_tensors(net, expert), trunk, expert, inputs_read(variant, expert), model)
    learned.measure_basis(data.basis[expert], of_crops)
    bits = np.array([learned.bits(image, of_photographs) for image in data.held_out[expert]])
    return np.concatenate([part.mean(0) for part in np.split(bits, 2)])


def expert_name(expert: int) -> str:
    """As the tables call an expert of level 0.

    >>> expert_name(0), expert_name(4)
    ('G1', 'R2')
    """
    return f"{'GRB'[expert % 3]}{expert // 3 + 1}"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.search", formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Compare variants of the network. All those from scratch take an hour.",
        epilog="From scratch:\n  " + "\n  ".join(SCRATCH) + "\nFrom the weights of photo:\n  " + "\n  ".join(FURTHER),
    )  # fmt: skip
    add_config(parser)
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--variants", nargs="+", choices=list(VARIANTS), metavar="NAME",
                       help="some of those below, 9x9 in a run of its own (default: others from scratch)")  # fmt: skip
    which.add_argument("--further", action="store_true", help="all from the weights of photo")
    parser.add_argument("--seconds", type=float, default=30, metavar="S",
                        help="of a thread to train an expert; measuring takes 15 more (default 30)")  # fmt: skip
    args = parser.parse_args(argv)
    names = args.variants or [*(FURTHER if args.further else SCRATCH)]
    radii = {VARIANTS[name].radius for name in args.variants or ["base"]}
    if len(radii) > 1:
        parser.error("windows of 9x9 need a run of their own")
    radius = radii.pop()
    # kernels are compiled for the radius that is known when they are loaded; those in the cache are for the usual one
    with tempfile.TemporaryDirectory() as cache:
        if radius != BASE.radius:
            os.environ["NUMBA_CACHE_DIR"] = cache
        from ardmzip import contexts, features, model

        loaded = model.load(MODEL)  # which has the usual windows
        features.RADIUS = radius
        features.layout.cache_clear()
        contexts.context_inputs.cache_clear()
        if max(len(features.expert_layout(expert).offsets) for expert in args.experts) > MOST_TAPS:
            parser.error("windows of 9x9 are for the first two lattices: 0 to 5")
        variants = [(name, VARIANTS[name]) for name in names if VARIANTS[name].radius == radius]
        try:
            compare(args.config, loaded, variants, args.experts, args.seconds)
        except ArdmError as error:
            print(f"search: {error}", file=sys.stderr)
            return 1
    return 0


def add_config(parser: argparse.ArgumentParser) -> None:
    """The arguments that say what is looked at."""
    parser.add_argument("config", type=Path, metavar="CONFIG",
                        help="of a training run, for its training and held-out images: configs/photo.toml")  # fmt: skip
    parser.add_argument("--experts", nargs="+", type=int, default=[0, 4], metavar="N", choices=range(9),
                        help="of level 0: 0 to 2 are G, R, B of the first lattice (default 0 4)")  # fmt: skip


def compare(
    config: Path, model: Model, variants: list[tuple[str, Variant]], experts: list[int], seconds: float
) -> None:  # fmt: skip
    """Train the variants, and print a line of the table for each."""
    import torch

    from ardmzip.training.train import TrainConfig

    torch.set_num_threads(1)
    loaded = TrainConfig.load(config)
    data: dict[bool, Data] = {}
    columns = "plain", "learning", "processed", "learning", "samples, millions"
    print("| variant |" + "".join(f" {expert_name(e)}, {column} |" for e in experts for column in columns))
    print("|---|" + "---:|" * (len(columns) * len(experts)), flush=True)
    for name, variant in variants:
        if variant.augmented not in data:
            data[variant.augmented] = make_data(loaded, model, variant.augmented, experts)
        cells = ""
        for expert in experts:
            net, seen = train_variant(variant, expert, data[variant.augmented], seconds)
            bits = measure(variant, expert, data[variant.augmented], model, net)
            cells += "".join(f" {own:.4f} |" for own in bits)
            cells += f" {seen / 1e6:.1f} |"
        print(f"| {name} |{cells}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
