"""Codes: side information for images that are too small to carry their own.

A model brings vectors of side information with it, its *codes*, and a small image names one, in a byte. They are
learned together with the network, as in vector quantisation: a crop has the code by which a sample of its pixels is
shortest, of some whose *keys* are near its statistics, and the code follows the gradient of the code length. Keys are
centres of clusters of the training crops (k-means++; Arthur and Vassilvitskii 2007), in coordinates in which the
squared distance of two vectors tells about how many bits an image takes more if it is told the one instead of the
other: half of it under the Fisher information of the code length.
"""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
import torch

from ardmzip import features
from ardmzip.codes import Keys
from ardmzip.likelihood import code_length
from ardmzip.training.net import Network

if TYPE_CHECKING:
    from ardmzip.training.data import Bank

#: Rounds of k-means; pixels of each expert by which the Fisher information is measured.
ROUNDS, FISHER_SAMPLES = 30, 4000
#: Keys whose codes are tried for a crop, and pixels of each expert of level 0 by which they are compared.
NEAREST, PIXELS = 6, 24


def fisher_root(net: Network, bank: Bank) -> np.ndarray:
    """A square root of the Fisher information of the side information, in bits a sub-pixel: float64 [SIDE, SIDE].

    By second moments of gradients of the code length, experts weighted by their share of pixels.
    """
    from ardmzip.training.train import share

    rng = np.random.default_rng(9)
    fisher = np.zeros((features.SIDE, features.SIDE))
    for number, expert in enumerate(net.experts):
        s = bank.sample(number, FISHER_SAMPLES, rng)
        x = (s.x.float() / 32).requires_grad_()
        bits = code_length(expert(x, False), s.target, s.centre, s.scale)
        (gradient,) = torch.autograd.grad(bits.sum(), x)
        slopes = gradient[:, features.expert_layout(number).side].double().numpy()
        fisher += share(number) * slopes.T @ slopes / len(slopes)
    values, vectors = np.linalg.eigh(fisher)
    return np.asarray(vectors * np.sqrt(np.maximum(values, 0)))


def cluster(side: np.ndarray, root: np.ndarray, count: int, seed: int) -> tuple[Keys, np.ndarray]:
    """Keys of ``count`` clusters of side information int8 [n, SIDE], and first codes float64 [count, SIDE]."""
    rng = np.random.default_rng(seed)
    points = side @ root
    centres = points[rng.integers(len(points))][None]
    nearest = ((points - centres) ** 2).sum(1)
    while len(centres) < count:
        centres = np.vstack([centres, points[rng.choice(len(points), p=nearest / nearest.sum())]])
        nearest = np.minimum(nearest, ((points - centres[-1]) ** 2).sum(1))
    for _ in range(ROUNDS):
        owner = Keys(centres, root).nearest(side, 1)[:, 0]
        centres = np.stack([points[owner == i].mean(0) if (owner == i).any() else c for i, c in enumerate(centres)])
    owner = Keys(centres, root).nearest(side, 1)[:, 0]
    codes = [side[owner == i].mean(0) if (owner == i).any() else side[i] for i in range(count)]
    return Keys(centres, root), np.stack(codes)


def assign(net: Network, bank: Bank, keys: Keys, slots: Iterable[int], pool: ThreadPoolExecutor) -> None:
    """Give crops of a bank, those of them that have a code, the best one of the codes of their nearest keys."""
    chosen = np.array(sorted({slot for slot in slots if bank.code[slot] >= 0}), np.int64)
    if not len(chosen):
        return
    tried = keys.nearest(bank.own_side[chosen], NEAREST)
    everywhere = np.repeat(chosen, PIXELS)

    @torch.no_grad()  # of the thread that it runs in
    def bits(expert: int) -> np.ndarray:
        """Of the pixels of an expert: float64 [crops, codes]."""
        s = bank.sample(expert, len(everywhere), np.random.default_rng(expert), slots=everywhere)
        own = np.searchsorted(chosen, s.slots)
        found = np.zeros(tried.shape)
        for i in range(tried.shape[1]):
            x = net.inputs(expert, s, tried[own, i])
            lengths = code_length(net.experts[expert](x, False), s.target, s.centre, s.scale)
            found[:, i] = np.bincount(own, lengths.double().numpy(), len(chosen))
        return found

    experts = features.EXPERTS // features.GROUPS
    best = sum(pool.map(bits, range(experts))).argmin(1)  # type: ignore[union-attr]
    bank.code[chosen] = tried[np.arange(len(chosen)), best]
