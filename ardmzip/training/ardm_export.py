"""A run of ardm.py -> ``models/NAME.safetensors``: integer weights, tables, losses of the steps, model card."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ardmzip import model as models
from ardmzip import network as backends
from ardmzip import tables
from ardmzip.ardm import codec, inputs, schedule
from ardmzip.ardm import model as random_order
from ardmzip.ardm.model import RandomModel
from ardmzip.ardm.order import CHANNELS, SIDE, digits, permutation
from ardmzip.container import pack
from ardmzip.network import Backend
from ardmzip.training import net as nets
from ardmzip.training.ardm import ArdmConfig, validate, validation_images
from ardmzip.training.ardm_net import TIMES, Conv, Network
from ardmzip.training.train import Run

SIZE = CHANNELS * SIDE * SIDE
#: Unit of the losses in a model.
LOSS_ONE = 1 << 16
#: Steps of a stage at which losses are measured; more at its beginning, where they fall fast.
GRID = np.unique(np.rint(SIZE * np.linspace(0, 1, 97) ** 2).astype(np.int64))[:-1]
#: Seeds that are tried for the order.
SEEDS = 2


def _integer_conv(conv: Conv, first: bool) -> dict[str, np.ndarray]:
    weight, bias = conv.weight.detach(), conv.bias.detach()[0]
    exponent = nets.weight_exponent(weight)
    unit = (nets.INPUT_SHIFT if first else nets.ACTIVATION_SHIFT) + exponent[:, 0].double()
    shift = (unit - nets.ACTIVATION_SHIFT).long()
    half = torch.where(shift > 0, 2.0 ** (shift - 1), 0.0)
    return {
        "weight": (weight * torch.exp2(exponent)).round().clamp(-127, 127).to(torch.int8).numpy(),
        "bias": ((bias.double() * torch.exp2(unit)).round() + half).to(torch.int32).numpy(),
        "shift": shift.to(torch.int32).numpy(),
    }


def integer_tensors(net: Network, loss: np.ndarray) -> dict[str, np.ndarray]:
    """The integers of docs/FORMAT.md for a float network, rounded exactly as fake quantisation did.

    loss: int32 [stages, 3072].
    """
    tensors = {f"table.{name}": table for name, table in {**tables.build(), **inputs.build()}.items()}
    convs: list[Conv] = list(net.convs)  # type: ignore[arg-type]
    for i, conv in enumerate(convs):
        tensors |= {f"conv.{i}.{part}": array for part, array in _integer_conv(conv, i == 0).items()}
    tensors["layers"] = np.array([(conv.kernel, conv.dilation) for conv in convs], np.int32)
    head = net.head.detach().clamp(-nets.HEAD_MAX, nets.HEAD_MAX)
    tensors["head.weight"] = (head * 2**nets.HEAD_SHIFT).round().to(torch.int16).numpy()
    unit = nets.HEAD_SHIFT + nets.ACTIVATION_SHIFT
    tensors["head.bias"] = (net.head_bias.detach() * 2**unit).round().to(torch.int32).numpy()
    tensors["form"] = np.array([net.branching, net.direct, TIMES], np.int32)
    tensors["loss"] = loss.astype(np.int32)
    return tensors


def falling(curve: np.ndarray) -> np.ndarray:
    """The curve sorted, as the paper does: knowing more cannot cost bits, so where it seems to, that is noise."""
    return np.sort(curve, axis=-1)[..., ::-1]


def measure_losses(
    model: RandomModel, backend: Backend, images: np.ndarray, seed: int, grid: np.ndarray = GRID
) -> np.ndarray:  # fmt: skip
    """L_t of every stage at the steps of ``grid``: bits float64 [stages, len(grid)].

    images: planes uint8 [n, 3, 32, 32]. The mean bits of all sub-pixels that are not known at a step, by the integers
    that code.
    """
    bits = np.empty((model.stages, len(grid)))
    order = [permutation(seed, stage, SIZE) for stage in range(model.stages)]
    with codec.walking(model, backend) as walk:
        for stage in range(model.stages):
            for k, start in enumerate(grid):
                bits[stage, k] = codec.ideal_bits(walk, images, stage, order[stage], int(start)) / (SIZE - start)
    return bits


def loss_table(bits: np.ndarray, grid: np.ndarray = GRID) -> np.ndarray:
    """int32 [stages, 3072] from losses at some steps."""
    steps = np.arange(SIZE)
    curves = np.stack([np.interp(steps, grid, curve) for curve in falling(bits)])
    return np.maximum(np.rint(curves * LOSS_ONE), 1).astype(np.int32)


def export(run: Run, path: Path, images: int = 12, files: int = 4) -> dict[str, Any]:
    """Write the model file of a run, with its averaged weights; returns the card.

    Losses are measured on ``images`` held-out images, and the card's figures on real files of ``files`` of them.
    """
    unfinished = path.with_suffix(f".part{models.SUFFIX}")
    config: ArdmConfig = run.config
    net: Network = run.average
    held_out = validation_images(config)
    validation: dict[str, Any] = {
        "images": len(held_out),
        "float_bits_per_subpixel": round(validate(net, held_out, False), 4),
        "quantised_bits_per_subpixel": round(validate(net, held_out, True), 4),
    }
    card: dict[str, Any] = {
        "data": {
            "about": config.about,
            "folders": [Path(place).name for place in [*config.data, *config.photos]],
        },
        "recipe": {k: v for k, v in asdict(config).items() if k not in ("data", "photos", "name", "about")},
        "parameters": sum(p.numel() for p in net.parameters()),
        "training": {"minutes": round(run.seconds / 60, 1), "steps": run.step, "images": run.samples},
        "validation": validation,
    }
    flat = np.full((len(digits(config.branching)), SIZE), LOSS_ONE, np.int32)
    random_order.save(unfinished, config.name, integer_tensors(net, flat), card)
    backend = backends.backend()
    loaded = random_order.require(models.load(unfinished))
    loss = loss_table(measure_losses(loaded, backend, held_out[:images], 1))
    random_order.save(unfinished, config.name, integer_tensors(net, loss), card)
    loaded = random_order.require(models.load(unfinished))
    sizes = {seed: file_bits(loaded, backend, held_out[:files], seed=seed) for seed in range(1, SEEDS + 1)}
    card["seed"] = min(sizes, key=lambda seed: sizes[seed])
    validation["files"] = {
        "images": min(files, len(held_out)),
        "calls": schedule.DEFAULT_CALLS,
        "bits_per_subpixel": round(sizes[card["seed"]], 4),
        "by_seed": {str(seed): round(bits, 4) for seed, bits in sizes.items()},
    }
    random_order.save(unfinished, config.name, integer_tensors(net, loss), card)
    unfinished.replace(path)
    models.forget()
    return models.load(path).card


def file_bits(
    model: RandomModel, backend: Backend, images: np.ndarray, steps: int | None = None, seed: int | None = None
) -> float:  # fmt: skip
    """Bits per sub-pixel of real files, header included."""
    total = 0
    for planes in images:
        order = codec.choose_order(SIDE, SIDE, model, steps, seed=seed)
        total += 8 * len(pack(codec.encode(planes, model, backend, order)))
    return total / images.size
