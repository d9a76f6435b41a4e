"""The search for a network: variants of it, trained from scratch in equal processor time, compared on held-out images.

    python -m bench.search CONFIG [--variants NAME...] [--seconds 40] [--experts 0 4]

prints a table of validation bits per sub-pixel (docs/TRAINING.md has one). All variants see the same 800 crops, those
of one batch size the same pixels in the same order; a budget is seconds of one thread, samples and weight averaging
included.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch

    from ardmzip.training.data import Bank, Samples
    from ardmzip.training.train import TrainConfig

#: Crops to train on and samples that are validated. A crop of 256x256 pixels has 16,384 pixels for each expert.
CROPS, VALIDATION = 800, 40_000
#: What the kernels have room for.
MOST_TAPS = 64


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

    @property
    def radius(self) -> int:
        return max(3, self.window // 2)


BASE = Variant()
VARIANTS = {
    "as `photo`": BASE,
    "K = 3": replace(BASE, components=3),
    "K = 8": replace(BASE, components=8),
    "K = 12": replace(BASE, components=12),
    "1 layer": replace(BASE, hidden=(256,)),
    "2 layers": replace(BASE, hidden=(256,) * 2),
    "4 layers": replace(BASE, hidden=(256,) * 4),
    "5 layers": replace(BASE, hidden=(256,) * 5),
    "residual": replace(BASE, residual=True),
    "5 layers, residual": replace(BASE, hidden=(256,) * 5, residual=True),
    "2 layers of 384": replace(BASE, hidden=(384,) * 2),
    "4 layers of 192": replace(BASE, hidden=(192,) * 4),
    "5x5": replace(BASE, window=5),
    "9x9": replace(BASE, window=9),
    "no side information": replace(BASE, side=0),
    "6 statistics": replace(BASE, side=6),
    "batch 400": replace(BASE, batch=400, rate=1.4e-3),
    "batch 1,600": replace(BASE, batch=1600, rate=2.8e-3),
    "batch 3,200": replace(BASE, batch=3200, rate=4e-3),
    "rate 1e-3": replace(BASE, rate=1e-3),
    "rate 4e-3": replace(BASE, rate=4e-3),
    "no weight averaging": replace(BASE, average=0.0),
    "average 0.998": replace(BASE, average=0.998),
    "Muon": replace(BASE, optimiser="muon", rate=1e-2),
    "Muon, batch 1,600": replace(BASE, optimiser="muon", rate=1e-2, batch=1600),
    "RAdam": replace(BASE, optimiser="radam"),
    "not augmented": replace(BASE, augmented=False),
}

#: Those whose windows have the usual size.
USUAL = [name for name, variant in VARIANTS.items() if variant.radius == BASE.radius]


@dataclass
class Data:
    """Crops to train on, and held-out crops, plain and augmented."""

    training: Bank
    validation: list[Bank] = field(default_factory=list)


def make_data(config: TrainConfig, augmented: bool) -> Data:
    from ardmzip import sideinfo
    from ardmzip.image import to_planes
    from ardmzip.training import data
    from ardmzip.training.augment import augment, random_crop
    from ardmzip.training.train import data_split, validation_crops

    training, held_out = data_split(config)
    rng = np.random.default_rng(config.seed)
    pool = data.image_pool(training, rng, config.crops)
    crops = [random_crop(image, config.crop, rng) for image in itertools.islice(pool, CROPS)]
    if augmented:
        crops = [random_crop(augment(np.ascontiguousarray(crop), rng), config.crop, rng) for crop in crops]
    plain = [np.ascontiguousarray(crop) for crop in validation_crops(held_out, config.crops)]
    rng = np.random.default_rng(config.seed)  # the same for all variants
    processed = [random_crop(augment(crop, rng), config.crop, rng) for crop in plain]

    measured = [[(planes, sideinfo.measure(planes)) for planes in map(to_planes, c)] for c in (crops, plain, processed)]
    stats = np.stack([own for _, own in measured[0]])
    banks = []
    for part in measured:
        bank = data.Bank(len(part), 0, stats.mean(0), stats.std(0) + 1e-3, config.crop)
        for slot, (planes, own) in enumerate(part):
            bank.put(slot, planes, own)
        banks.append(bank)
    return Data(banks[0], banks[1:])


def make_net(variant: Variant, inputs: int) -> Any:
    """A network int8 inputs / 32 float [n, inputs] -> float [n, 3 K], with a column for each that it does not read."""
    import torch

    from ardmzip.training.net import ACTIVATION_MAX, Expert

    class Residual(Expert):
        def forward(self, x: torch.Tensor, quantise: bool) -> torch.Tensor:
            for w, b in zip(self.weights, self.biases, strict=True):
                y = torch.nn.functional.hardtanh(torch.nn.functional.linear(x, w, b), 0.0, ACTIVATION_MAX)
                x = y if y.shape != x.shape else torch.clamp(x + y, max=ACTIVATION_MAX)
            with torch.autocast(x.device.type, enabled=False):
                return torch.nn.functional.linear(x.to(self.head.dtype), self.head, self.head_bias)

    torch.manual_seed(1)
    return (Residual if variant.residual else Expert)(inputs, list(variant.hidden), variant.components)


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

    if variant.optimiser == "muon":  # of torch 2.9 or newer
        trunk = [p for name, p in net.named_parameters() if name.startswith("weights")]
        others = [p for name, p in net.named_parameters() if not name.startswith("weights")]
        muon = torch.optim.Muon(trunk, lr=variant.rate, weight_decay=0.0, adjust_lr_fn="match_rms_adamw")
        return [muon, torch.optim.AdamW(others, lr=2e-3, betas=(0.9, 0.99), weight_decay=0.0, fused=True)]
    matrices, others = [p for p in net.parameters() if p.ndim == 2], [p for p in net.parameters() if p.ndim != 2]
    groups: list[dict[str, Any]] = [{"params": matrices, "weight_decay": 1e-4}, {"params": others, "weight_decay": 0.0}]
    if variant.optimiser == "radam":
        return [torch.optim.RAdam(groups, lr=variant.rate, betas=(0.9, 0.99), decoupled_weight_decay=True)]
    return [torch.optim.AdamW(groups, lr=variant.rate, betas=(0.9, 0.99), fused=True)]


def batches(bank: Bank, expert: int, size: int) -> Iterator[Samples]:
    for step in itertools.count():
        yield bank.sample(expert, size, np.random.default_rng([step, expert]), 0.1)


def train_variant(variant: Variant, expert: int, data: Data, seconds: float) -> tuple[list[float], int]:
    """Bits per sub-pixel on each validation bank, and samples seen."""
    import torch

    from ardmzip import features
    from ardmzip.likelihood import code_length
    from ardmzip.training.train import update_average

    mask = torch.from_numpy(inputs_read(variant, expert).astype(np.float32))
    net = make_net(variant, features.expert_layout(expert).inputs)
    average = copy.deepcopy(net).requires_grad_(False)
    optimisers = make_optimiser(variant, net)
    rates = [group["lr"] for optimiser in optimisers for group in optimiser.param_groups]
    begun, seen, step = time.thread_time(), 0, 0
    samples = batches(data.training, expert, variant.batch)
    while (used := (time.thread_time() - begun) / seconds) < 1:
        groups = [group for optimiser in optimisers for group in optimiser.param_groups]
        for group, rate in zip(groups, rates, strict=True):
            group["lr"] = rate * (1 - used) * min(1.0, (step + 1) / 200)
        s = next(samples)
        with torch.autocast("cpu", torch.bfloat16):
            outputs = net(s.x.float() / 32 * mask, False)
        loss = code_length(outputs, s.target, s.centre, s.scale).mean()
        net.zero_grad(set_to_none=True)
        loss.backward()
        for optimiser in optimisers:
            optimiser.step()
        step, seen = step + 1, seen + len(s.target)
        update_average(average, net, variant.average, step)
    bits = []
    with torch.no_grad():
        for bank in data.validation:
            s = bank.sample(expert, VALIDATION, np.random.default_rng(5))
            outputs = average(s.x.float() / 32 * mask, False)
            bits.append(float(code_length(outputs, s.target, s.centre, s.scale).mean()))
    return bits, seen


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.search", description="Compare variants of the network.")
    parser.add_argument(
        "config", type=Path, metavar="CONFIG", help="of a training run, for its data: configs/photo.toml"
    )
    parser.add_argument("--variants", nargs="+", default=USUAL, choices=list(VARIANTS), metavar="NAME",
                        help=f"some of {', '.join(VARIANTS)} (9x9 in a run of its own)")  # fmt: skip
    parser.add_argument("--seconds", type=float, default=40, metavar="S", help="of a thread, for each expert")
    parser.add_argument("--experts", nargs="+", type=int, default=[0, 4], metavar="N", help="(default 0 4)")
    args = parser.parse_args(argv)
    radii = {VARIANTS[name].radius for name in args.variants}
    if len(radii) > 1:
        parser.error("windows of 9x9 need a run of their own")
    radius = radii.pop()
    # kernels are compiled for the radius that is known when they are loaded; those in the cache are for the usual one
    with tempfile.TemporaryDirectory() as cache:
        if radius != BASE.radius:
            os.environ["NUMBA_CACHE_DIR"] = cache
        from ardmzip import features

        features.RADIUS = radius
        if max(len(features.expert_layout(expert).offsets) for expert in args.experts) > MOST_TAPS:
            parser.error("windows of 9x9 are for the first two lattices: 0 to 5, 9 to 14")
        compare(args.config, [(name, VARIANTS[name]) for name in args.variants], args.experts, args.seconds)
    return 0


def compare(config: Path, variants: list[tuple[str, Variant]], experts: list[int], seconds: float) -> None:
    """Train the variants, and print a line of the table for each."""
    import torch

    from ardmzip.training.train import TrainConfig

    torch.set_num_threads(1)
    loaded = TrainConfig.load(config)
    data: dict[bool, Data] = {}
    print("| variant |" + "".join(f" {e}, plain | augmented | samples, millions |" for e in experts))
    print("|---|" + "---:|---:|---:|" * len(experts), flush=True)
    for name, variant in variants:
        if variant.augmented not in data:
            data[variant.augmented] = make_data(loaded, variant.augmented)
        cells = ""
        for expert in experts:
            bits, seen = train_variant(variant, expert, data[variant.augmented], seconds)
            cells += "".join(f" {b:.4f} |" for b in bits) + f" {seen / 1e6:.1f} |"
        print(f"| {name} |{cells}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
