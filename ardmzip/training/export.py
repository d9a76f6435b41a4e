"""A training run -> ``models/NAME.safetensors``: integer weights, tables, loss tables, normalisation, model card."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from ardmzip import codec, features, model, network, sideinfo, tables
from ardmzip.container import pack
from ardmzip.image import to_planes
from ardmzip.learning import Gain
from ardmzip.likelihood import code_length
from ardmzip.order import Atom
from ardmzip.schedule import learning_grid
from ardmzip.training import basis
from ardmzip.training import net as nets
from ardmzip.training.data import BANK_LEVELS, Bank, crop_stream
from ardmzip.training.images import is_sheet, stream_images
from ardmzip.training.net import Network
from ardmzip.training.train import Run, data_split, validate, validation_bank, validation_crops

#: Points of the learning curve: up to half a million pixels, more than the validation images have.
CURVE_POINTS = 28
KINDS, CHANNELS = features.KINDS, features.CHANNELS


def integer_tensors(net: Network) -> dict[str, np.ndarray]:
    """The integers of docs/FORMAT.md ("Network") for a float network, rounded exactly as fake quantisation did."""
    tensors = {f"table.{name}": table for name, table in tables.build().items()}
    for e, expert in enumerate(cast(list[nets.Expert], list(net.experts))):
        for i, (weight, bias) in enumerate(zip(expert.weights, expert.biases, strict=True)):
            exponent = nets.weight_exponent(weight)
            unit = (nets.INPUT_SHIFT if i == 0 else nets.ACTIVATION_SHIFT) + exponent[:, 0].double()
            shift = (unit - nets.ACTIVATION_SHIFT).long()
            half = torch.where(shift > 0, 2.0 ** (shift - 1), 0.0)
            tensors[f"expert.{e}.{i}.weight"] = (
                (weight.detach() * torch.exp2(exponent)).round().clamp(-127, 127).to(torch.int8).numpy()
            )
            tensors[f"expert.{e}.{i}.bias"] = (
                ((bias.detach().double() * torch.exp2(unit)).round() + half).to(torch.int32).numpy()
            )
            tensors[f"expert.{e}.{i}.shift"] = shift.to(torch.int32).numpy()
        head = expert.head.detach().clamp(-nets.HEAD_MAX, nets.HEAD_MAX)
        tensors[f"expert.{e}.head.weight"] = (head * 2**nets.HEAD_SHIFT).round().to(torch.int16).numpy()
        unit_bits = nets.HEAD_SHIFT + nets.ACTIVATION_SHIFT
        tensors[f"expert.{e}.head.bias"] = (expert.head_bias.detach() * 2**unit_bits).round().to(torch.int32).numpy()
    if net.codes is not None:
        codes = (net.codes.detach() * 2**nets.INPUT_SHIFT).round().clamp(-127, 127)
        tensors["side.codes"] = codes.to(torch.int8).numpy()
    return tensors


@torch.no_grad()
def loss_table(net: Network, bank: Bank, channels: int, samples: int = 3000) -> np.ndarray:
    """loss[t][r]: mean bits of a sub-pixel of atom r when only the atoms before t are known; float32 [T, T], t <= r.

    Measured on the same pixels for all t of an atom, with the quantised network. Atoms are in coding order over
    BANK_LEVELS levels.
    """
    atoms = [
        (level, kind, channel)
        for level in reversed(range(BANK_LEVELS))
        for kind in range(KINDS)
        for channel in range(channels)
    ]
    # ranks count sub-pixel atoms of all three channels from the end, gray or not (kernels.training_features)
    rank = [9 * level + 8 - 3 * kind - channel for level, kind, channel in atoms]
    loss = np.full((len(atoms), len(atoms)), np.nan, np.float32)
    for r, (level, kind, channel) in enumerate(atoms):
        expert = Atom(level, kind, channel).expert
        for t in range(r + 1):
            rng = np.random.default_rng(r)
            s = bank.sample(expert, samples, rng, hidden=rank[t] - rank[r], level_only=level)
            bits = code_length(net.experts[expert](net.inputs(expert, s), True), s.target, s.centre, s.scale)
            loss[t, r] = float(bits.mean())
    # levels that are too coarse for the images are as the next finer one
    period = KINDS * channels
    for r in reversed(range(len(atoms) - period)):
        column = loss[: r + 1, r]
        column[:] = np.where(np.isnan(column), loss[period : period + r + 1, period + r], column)
    # knowing more cannot cost bits: where it seems to, that is noise of the sample, and the schedule must not chase it
    for t in reversed(range(len(atoms) - 1)):
        loss[t, t + 1 :] = np.maximum(loss[t, t + 1 :], loss[t + 1, t + 1 :])
    return loss


def gray_bank(bank: Bank) -> Bank:
    """The same crops as gray images."""
    copy = Bank(bank.slots, bank.slots, bank.mean, bank.std, bank.crop, bank.keys)
    for slot in range(bank.slots):
        h, w = bank.shape[slot, 0]
        size = bank.sizes[0]
        start = slot * bank.offsets[-1]
        array = bank.q[start : start + size * size * 3].reshape(size, size, 3)
        inner = array[features.RADIUS : features.RADIUS + h, features.RADIUS : features.RADIUS + w]
        planes = np.ascontiguousarray(inner.transpose(2, 0, 1)).astype(np.uint8)
        copy.put(slot, planes, sideinfo.measure(planes[:1]))
    return copy


def file_sizes(path: Path, images: list[np.ndarray]) -> tuple[dict[str, float], np.ndarray]:
    """(bits per sub-pixel of real files, header included, with learning and with frozen heads; the learning curve)."""
    loaded, chosen = model.load(path), network.backend()
    gains: list[Gain] = []
    learned = frozen = values = 0
    for image in images:
        planes = to_planes(image)
        learned += 8 * len(pack(codec.encode(planes, loaded, chosen, gains=gains)))
        frozen += 8 * len(pack(codec.encode(planes, loaded, chosen, learn=False)))
        values += planes.size
    sizes = {
        "images": len(images),
        "bits_per_subpixel": round(learned / values, 4),
        "bits_per_subpixel_frozen_head": round(frozen / values, 4),
    }
    return sizes, learning_curve(gains)


def learning_curve(gains: list[Gain]) -> np.ndarray:
    """Bits a sub-pixel that heads gain from as many pixels as ``learning_grid`` tells: float32 [CURVE_POINTS].

    Learning from more cannot hurt: where it seems to, that is noise. Beyond what was measured the curve stays level.
    """
    grid = learning_grid(CURVE_POINTS)
    pixels, bits = np.zeros((2, CURVE_POINTS))
    for gain in gains:
        point = int(np.abs(grid - gain.seen).argmin())
        pixels[point] += gain.pixels
        bits[point] += gain.frozen - gain.learned
    measured = pixels > 0
    curve = np.interp(grid, grid[measured], bits[measured] / pixels[measured])
    curve[0] = 0
    return np.maximum.accumulate(curve).astype(np.float32)


def export(run: Run, path: Path, samples: int = 3000, images: int = 12, crops: int = 320) -> dict[str, Any]:
    """Write the model file of a run, with its averaged weights; returns the card.

    How the heads learn is measured on ``crops`` augmented crops of the training images.

    The loss tables and the card's figures are measured on the run's validation images: float and quantised ideal code
    length of random pixels, and the size of real files of the first ``images`` of them, or as many thumbnails if the
    run is for these.
    """
    unfinished = path.with_suffix(f".part{model.SUFFIX}")
    config = run.config
    training, held_out = data_split(config)
    if not config.thumbnails:
        held_out = [source for source in held_out if not is_sheet(source)] or held_out
    found = validation_crops(held_out, config.crops)
    bank = validation_bank(found, run)
    parameters = sum(p.numel() for p in run.average.parameters())
    card: dict[str, Any] = {
        "data": {
            "about": config.about,
            "folders": [Path(d).name for d in config.data],
            "validation_crops": len(found),
        },
        "recipe": {k: v for k, v in asdict(config).items() if k not in ("data", "name", "about")},
        "parameters": parameters,
        "training": {"minutes": round(run.seconds / 60, 1), "steps": run.step, "samples": run.samples},
        "validation": {
            "float_bits_per_subpixel": round(validate(run.average, bank, False), 4),
            "quantised_bits_per_subpixel": round(validate(run.average, bank, True), 4),
        },
    }
    loss = {3: loss_table(run.average, bank, 3, samples), 1: loss_table(run.average, gray_bank(bank), 1, samples)}
    model.save(unfinished, config.name, integer_tensors(run.average), loss, run.mean, run.std, card, keys=run.keys)
    stream = crop_stream(training, config.seed, config.workers, config.crops)
    if not config.thumbnails:
        found = list(itertools.islice(stream_images(held_out, held_out=True), images))
    teach(unfinished, (planes for planes, _ in itertools.islice(stream, crops)), found[:images])
    unfinished.replace(path)
    return model.load(path).card


def teach(path: Path, crops: Iterable[np.ndarray], images: list[np.ndarray]) -> None:
    """Add to a model file how its heads learn (basis.py), and its learning curve and file sizes on some images.

    crops: planes of training images, uint8 [3, height, width] each.
    """
    m = model.load(path)
    tensors = {name: array for name, array in m.tensors.items() if not name.startswith("learning.")}
    tensors |= basis.tensors(basis.collect(m, crops))
    model.save(path, m.name, tensors, m.loss, m.side_mean, m.side_std, m.card, keys=m.keys)
    m.card["validation"]["files"], curve = file_sizes(path, images)
    model.save(path, m.name, tensors, m.loss, m.side_mean, m.side_std, m.card, curve, m.keys)
