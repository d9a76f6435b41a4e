"""Training samples: a bank of augmented crops that a worker process keeps renewing, and random pixels drawn from it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, IterableDataset

from ardmzip import features, kernels, sideinfo, tables
from ardmzip.codes import Keys
from ardmzip.errors import ImageError
from ardmzip.image import to_planes
from ardmzip.training.augment import DEFAULT, AugmentConfig, augment, random_crop
from ardmzip.training.images import is_shard, is_sheet, load_images, stream_images

CROP = 256
#: Levels sampled for the coarse experts; their share falls by half per level (their pixels by a quarter).
COARSE_LEVELS = 7
COARSE_SHARE = 0.5 ** np.arange(1, COARSE_LEVELS + 1)
BANK_LEVELS = COARSE_LEVELS + 1
PAD = features.RADIUS
#: Small images are seldom processed once they are small: so many of them are left as they are.
GENTLE = 0.85


@dataclass(frozen=True)
class CropConfig:
    """How crops are cut from images."""

    #: Side of the square crops; smaller images are taken whole.
    size: int = CROP
    #: Share of the photographs that are scaled down as a whole first, as thumbnails are, to a shorter side of ``small``
    #: pixels; these are mostly left as they are then.
    thumbnails: float = 0.0
    small: tuple[int, int] = (32, 128)
    #: How often an image of a sheet is drawn, where others are drawn once. Of no effect where images pass
    #: through memory.
    sheets: float = 0.25
    #: Files, or images of shards, kept in memory by each worker. Where there are more files, or any shards, the images
    #: pass through it.
    memory: int = 4000
    #: Crops cut for every image that passes.
    crops_per_image: int = 4
    #: What is done to crops.
    augment: AugmentConfig = DEFAULT


def image_pool(sources: list[str], rng: np.random.Generator, config: CropConfig) -> Iterator[np.ndarray]:
    """Endless random images: all of them while they fit in memory, or those that pass through it.

    In memory, images of sheets are drawn as often as ``config`` says; what passes comes once each time.
    """
    if not any(map(is_shard, sources)) and len(sources) <= config.memory:
        sheets = [source for source in sources if is_sheet(source)]
        images = load_images([source for source in sources if not is_sheet(source)])
        weights = np.ones(len(images))
        small = load_images(sheets)
        images, weights = images + small, np.concatenate([weights, np.full(len(small), config.sheets)])
        if not weights.any():
            raise ImageError(f"{', '.join(sources[:3])}: nothing but sheets, which are never drawn: set sheets above 0")
        borders = np.cumsum(weights) / weights.sum()
        while True:
            yield images[min(int(np.searchsorted(borders, rng.random(), "right")), len(images) - 1)]
    passing = _endless(sources, rng)
    held = list(itertools.islice(passing, config.memory))
    for count in itertools.count(1):
        yield held[rng.integers(len(held))]
        if count % config.crops_per_image == 0:
            held[rng.integers(len(held))] = next(passing)


def _endless(sources: list[str], rng: np.random.Generator) -> Iterator[np.ndarray]:
    """All images of all sources, again and again, the sources in random order."""
    while True:
        found = False
        for image in stream_images([sources[i] for i in rng.permutation(len(sources))], held_out=False):
            found = True
            yield image
        if not found:
            raise ImageError(f"{', '.join(sources[:3])}: no images for training")


def thumbnail(image: np.ndarray, rng: np.random.Generator, small: tuple[int, int]) -> np.ndarray:
    """The image scaled down, by one of the usual filters, to a shorter side drawn log-uniformly from ``small``."""
    side = min(image.shape[:2])
    goal = round(float(np.exp(rng.uniform(*np.log(small)))))
    if goal >= side:
        return image
    size = tuple(max(1, round(n * goal / side)) for n in image.shape[1::-1])
    filters = Image.Resampling.BOX, Image.Resampling.BILINEAR, Image.Resampling.BICUBIC, Image.Resampling.LANCZOS
    return np.asarray(Image.fromarray(image).resize(size, filters[int(rng.integers(4))]))


class Crops(IterableDataset):
    """Endless augmented crops: (planes uint8 [3, h, w] in coding order, statistics float64 [22])."""

    def __init__(self, sources: list[str], seed: int, config: CropConfig = CropConfig()):
        self.sources, self.seed, self.config = sources, seed, config

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        torch.set_num_threads(1)
        info = torch.utils.data.get_worker_info()
        rng = np.random.default_rng([self.seed, info.id if info else 0])
        config = self.config
        for image in image_pool(self.sources, rng, config):
            gentle = min(image.shape[:2]) <= config.size and config.thumbnails > 0
            if rng.random() < config.thumbnails:
                image, gentle = thumbnail(image, rng, config.small), True
            crop = np.ascontiguousarray(random_crop(image, config.size, rng))
            processing = replace(config.augment, untouched=GENTLE) if gentle else config.augment
            crop = random_crop(augment(crop, rng, processing), config.size, rng)
            planes = to_planes(crop)
            yield planes, sideinfo.measure(planes)


def crop_stream(
    sources: list[str], seed: int, workers: int = 1, config: CropConfig = CropConfig()
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Crops made by worker processes ahead of use."""
    loader = DataLoader(
        Crops(sources, seed, config),
        batch_size=None,
        num_workers=workers,
        prefetch_factor=32 if workers else None,
        collate_fn=None,
    )
    for planes, stats in loader:
        yield np.asarray(planes), np.asarray(stats)


@dataclass
class Samples:
    """A batch for one expert; x int8 [n, inputs], level, slots (of the bank) and code int64 [n], the rest float32 [n].

    code: of the crop, or -1; the inputs do not have it (net.Network.inputs)."""

    x: torch.Tensor
    target: torch.Tensor
    centre: torch.Tensor
    scale: torch.Tensor
    level: np.ndarray
    slots: np.ndarray
    code: np.ndarray

    def to(self, device: torch.device) -> Samples:
        """The samples on a device."""
        return Samples(
            self.x.to(device), self.target.to(device), self.centre.to(device), self.scale.to(device), self.level,
            self.slots, self.code,
        )  # fmt: skip


@dataclass
class Places:
    """Where samples are taken: slots (of the bank), level, and row and column in its level, int64 [n] each."""

    slots: np.ndarray
    level: np.ndarray
    row: np.ndarray
    column: np.ndarray


class Bank:
    """Level arrays of many crops in one flat int16 buffer. The first ``gray`` slots are gray: R and B unknown."""

    def __init__(
        self, slots: int, gray: int, mean: np.ndarray, std: np.ndarray, crop: int = CROP, keys: Keys | None = None
    ) -> None:
        self.sizes = [(crop >> level) + 2 * PAD for level in range(BANK_LEVELS)]
        self.offsets = np.cumsum([0] + [s * s * 3 for s in self.sizes])
        self.slots, self.gray, self.crop = slots, gray, crop
        self.q = np.full(slots * self.offsets[-1], features.UNKNOWN, np.int16)
        self.shape = np.zeros((slots, BANK_LEVELS, 2), np.int64)
        self.side = np.zeros((slots, features.SIDE + 1), np.int8)
        self.mean, self.std = mean, std
        #: If there are keys, crops carry a code in place of their own side information, int8 [slots, SIDE].
        self.keys = keys
        self.code = np.full(slots, -1, np.int64)
        self.own_side = np.zeros((slots, features.SIDE), np.int8)
        self.filled = 0
        self.tables = tables.build()

    def put(self, slot: int, planes: np.ndarray, stats: np.ndarray, with_side: bool = True) -> None:
        """Replace a crop. Without ``with_side`` it carries no side information, as tiny images do."""
        gray = slot < self.gray
        self.side[slot], self.code[slot] = sideinfo.inputs(None), -1
        if with_side:
            if gray:
                stats = sideinfo.measure(planes[:1])
            self.own_side[slot] = sideinfo.quantise(stats, self.mean, self.std)
            self.side[slot] = sideinfo.inputs(self.own_side[slot])
            self._take_code(slot)
        hwc = planes.transpose(1, 2, 0)
        for level, size in enumerate(self.sizes):
            a = slot * self.offsets[-1] + self.offsets[level]
            array = self.q[a : a + size * size * 3].reshape(size, size, 3)
            array[:] = features.UNKNOWN
            sub = hwc[:: 1 << level, :: 1 << level]
            h, w = sub.shape[:2]
            if gray:
                array[PAD : PAD + h, PAD : PAD + w, 0] = sub[:, :, 0]
            else:
                array[PAD : PAD + h, PAD : PAD + w] = sub
            self.shape[slot, level] = h, w
        self.filled = max(self.filled, slot + 1)

    def take_codes(self, keys: Keys) -> None:
        """Let crops carry codes from now on."""
        self.keys = keys
        for slot in np.flatnonzero(self.side[: self.filled, 0]).tolist():
            self._take_code(slot)

    def _take_code(self, slot: int) -> None:
        """The code of the nearest key, if there are any, in place of the crop's own side information."""
        if self.keys is not None:
            self.side[slot, 1:] = 0
            self.code[slot] = self.keys.nearest(self.own_side[slot], 1)[0]

    def sample(self, expert: int, n: int, rng: np.random.Generator, masked: float = 0.0, hidden: int | None = None,
               level_only: int | None = None, slots: np.ndarray | None = None) -> Samples:  # fmt: skip
        """``n`` random pixels for an expert (a few less if crops are too small for the level drawn).

        ``masked``: share of samples whose preceding atoms are hidden, as in merged network calls; ``hidden``: exactly
        so many atoms are hidden from every sample. ``level_only``, ``slots``: as for ``places``.
        """
        places = self.places(expert, n, rng, level_only, slots)
        n = len(places.slots)
        gap = np.where(rng.random(n) < masked, np.minimum(1 + rng.exponential(5.0, n), 36), 0).astype(np.int64)
        return self.read(expert, places, gap if hidden is None else np.full(n, hidden, np.int64))

    def places(
        self, expert: int, n: int, rng: np.random.Generator, level_only: int | None = None,
        slots: np.ndarray | None = None,
    ) -> Places:  # fmt: skip
        """``n`` random places for an expert. ``level_only``: all of one level. ``slots``: int64 [n], the crops to draw
        from, one for each place, instead of random ones."""
        lay = features.expert_layout(expert)
        group = expert // (features.KINDS * features.CHANNELS)
        if slots is None:
            slots = rng.integers(0 if lay.channel == 0 else self.gray, self.filled, n)
        elif lay.channel:
            slots = slots[slots >= self.gray]
            n = len(slots)
        share = COARSE_SHARE / COARSE_SHARE.sum()
        level = np.zeros(n, np.int64) if group == 0 else rng.choice(np.arange(1, BANK_LEVELS), n, p=share)
        if level_only is not None:
            level = np.full(n, level_only, np.int64)
        oy, ox = features.KIND_OFFSETS[lay.kind]
        shape = self.shape[slots, level]
        rows, cols = (shape[:, 0] - oy + 1) // 2, (shape[:, 1] - ox + 1) // 2
        keep = (rows > 0) & (cols > 0)
        slots, level, rows, cols = slots[keep], level[keep], rows[keep], cols[keep]
        row = 2 * (rng.random(len(slots)) * rows).astype(np.int64) + oy
        col = 2 * (rng.random(len(slots)) * cols).astype(np.int64) + ox
        return Places(slots, level, row, col)

    def read(self, expert: int, places: Places, gap: np.ndarray) -> Samples:
        """The pixels at places for an expert. gap: int64 [n], how many of the preceding atoms are hidden from each."""
        lay = features.expert_layout(expert)
        slots, level, row, col = places.slots, places.level, places.row, places.column
        n = len(slots)
        stride = np.asarray(self.sizes)[level]
        at = slots * self.offsets[-1] + self.offsets[level] + ((row + PAD) * stride + col + PAD) * 3
        x = np.empty((n, lay.inputs), np.int8)
        centre, cls, target = np.empty(n, np.int32), np.empty(n, np.uint8), np.empty(n, np.int16)
        kernels.training_features(
            self.q, at, stride, row, col, level, gap, lay.offsets[:, 0], lay.offsets[:, 1], lay.weights, lay.known,
            lay.channel, lay.kind, self.side, slots, self.tables["class_of"], self.tables["compand"],
            x, centre, cls, target,
        )  # fmt: skip
        scale = tables.class_scale(cls).astype(np.float32)
        return Samples(
            torch.from_numpy(x),
            torch.from_numpy(target.astype(np.float32)),
            torch.from_numpy(centre.astype(np.float32) / tables.UNIT),
            torch.from_numpy(scale),
            level,
            slots,
            self.code[slots],
        )
