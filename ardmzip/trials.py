"""Coding an image in several ways, and keeping the smallest file (docs/FITTING.md).

The first try is that of raster.encode, so no effort makes a larger file than another one that tries less.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from ardmzip import raster, tiling
from ardmzip.body import Encoder, Progress, share_of
from ardmzip.container import Container, pack
from ardmzip.efforts import Effort
from ardmzip.errors import FormatError
from ardmzip.pixelformat import PixelFormat
from ardmzip.tiling import Rectangle

if TYPE_CHECKING:
    from ardmzip.changes import Changes
    from ardmzip.model import Model

#: Tiles that are looked at, if there are more.
TILES = 4


class _Trials:
    """One image, and the smallest file of it so far."""

    def __init__(
        self, samples: np.ndarray, described: PixelFormat, encoder: Encoder, tile: tuple[int, int] | None, forced: bool,
        progress: Iterator[Progress | None],
    ) -> None:  # fmt: skip
        from ardmzip.changes import Changes

        self.encoder = encoder
        self._samples, self._described, self._tile, self._forced = samples, described, tile, forced
        self.progress = progress
        self.best = raster.encode(samples, described, encoder, tile, next(progress), forced)
        self.phase, self.turn, self.changes = encoder.phase, encoder.turn, Changes()
        self.side: np.ndarray | None = None
        self._unchanged = self._size(self.best)

    @property
    def parts(self) -> list[np.ndarray]:
        """Planes of the image, or of some of its tiles."""
        height, width = self._samples.shape[:2]
        whole = Rectangle(0, 0, height, width)
        places = [whole] if self._tile is None else tiling.grid(height, width, self._tile)
        chosen = places[len(places) // (2 * TILES) :: -(-len(places) // TILES)]
        return [raster.colour_planes(self._samples[place.slices], self._described) for place in chosen]

    def _size(self, coded: Container) -> int:
        """Bytes of a file without its metadata."""
        return len(pack(replace(coded, format=None if self._described.is_plain else self._described)))

    def attempt(
        self, *, phase: tuple[int, int] | None = None, turn: int | None = None, tried: Changes | None = None,
        side: np.ndarray | None = None, model: Model | None = None,
    ) -> bool:  # fmt: skip
        """Code in a phase, turned, with changes, with side information and by another model, or as the best file;
        whether the file is smaller."""
        from ardmzip import changes

        phase, turn = self.phase if phase is None else phase, self.turn if turn is None else turn
        tried, side = self.changes if tried is None else tried, self.side if side is None else side

        report = next(self.progress)
        model = self.encoder.loaded()[0] if model is None else model
        try:
            encoder = self.encoder.with_model(changes.apply(tried, model), side, turn)
        except FormatError:  # sums would leave 32 bits
            return False
        coded = raster.encode(self._samples, self._described, encoder, self._tile, report, self._forced, phase)
        if not coded.uses_model:
            return False
        size = self._size(coded)
        if changes.are_some(tried):
            saved = max(0, self._unchanged - size)
            coded = replace(coded, changes=changes.pack(tried, model), saved=saved)
        else:
            self._unchanged = min(size, self._unchanged)
        if self._size(coded) >= self._size(self.best):
            return False
        self.best, self.phase, self.turn, self.changes, self.side = coded, phase, turn, tried, side
        self.encoder.change_model(model)
        if self.encoder.gains is not None:
            self.encoder.gains[:] = encoder.gains or []
        return True


def encode(
    samples: np.ndarray, described: PixelFormat, encoder: Encoder, tile: tuple[int, int] | None, effort: Effort,
    progress: Progress | None = None, forced: bool = False,
) -> Container:  # fmt: skip
    """raster.encode, and then all that an effort tries."""
    height, width = samples.shape[:2]
    if height * width < effort.least:
        effort = Effort()
    trials = _Trials(samples, described, encoder, tile, forced, _shares(progress, effort))
    lattice = all(part.random is None for part in trials.best.parts)
    if trials.best.uses_model and lattice and described.depth >= 8:
        _try(trials, effort)
    if progress:
        progress(1.0)
    return trials.best


def _try(trials: _Trials, effort: Effort) -> None:
    if effort.phases:
        from ardmzip import choice

        planes, loaded = trials.parts[len(trials.parts) // 2], trials.encoder.loaded()
        if trials.encoder.may_change_model:
            relative = choice.best_relative(planes, *loaded, trials.phase, effort.phases)
            if relative is not loaded[0] and trials.attempt(model=relative):
                loaded = trials.encoder.loaded()
        if effort.views and any(part.code for part in trials.best.parts):
            views = choice.best_views(planes, *loaded, trials.encoder.search, effort.views)
        else:
            views = [(choice.best_phase(planes, *loaded, trials.phase, effort.phases), 0)]
        first = trials.phase, trials.turn
        for phase, turn in views:
            if (phase, turn) != first:
                trials.attempt(phase=phase, turn=turn)
    if not any(part.learning for part in trials.best.parts):
        return
    if effort.rounds:
        _fit_side(trials, effort)
    for pace in effort.paces:
        if not trials.attempt(tried=replace(trials.changes, pace=pace)):
            break
    if effort.passes:
        from ardmzip import changes
        from ardmzip.fitting.fit import Budget, fit

        model = changes.apply(trials.changes, trials.encoder.loaded()[0])
        found = fit(
            trials.parts, model, Budget(effort.samples, effort.passes), phase=trials.phase, side=trials.side,
            threads=trials.encoder.threads, progress=next(trials.progress),
        )  # fmt: skip
        if found.steps:
            trials.attempt(tried=replace(found, pace=trials.changes.pace))


def _fit_side(trials: _Trials, effort: Effort) -> None:
    from ardmzip.fitting.side import fit_side

    parts, report = trials.parts, next(trials.progress)
    side = None
    if len(parts[0]) == 3:
        side = fit_side(
            parts, trials.encoder.loaded()[0], effort.seen, effort.rounds, phase=trials.phase,
            threads=trials.encoder.threads, progress=report,
        )  # fmt: skip
    if side is not None:
        trials.attempt(side=side)
    else:
        next(trials.progress)


def _shares(progress: Progress | None, effort: Effort) -> Iterator[Progress | None]:
    """The progress of each stage. Another phase or model is seldom coded in: it counts little."""
    stages = (
        [1.0]
        + [0.2] * (1 + max(1, effort.views) if effort.phases else 0)
        + [1.0] * (2 * bool(effort.rounds) + len(effort.paces) + 2 * bool(effort.passes))
    )
    done = 0.0
    for stage in stages:
        yield share_of(progress, done / sum(stages), (done + stage) / sum(stages))
        done += stage
