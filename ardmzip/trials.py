"""How hard the encoder tries (docs/FITTING.md): phases and paces by trial, and the model fitted to the image.

The smallest of all files is kept. Only the phase is chosen by a sample of the pixels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from ardmzip import raster
from ardmzip.body import Encoder, Progress, share_of
from ardmzip.container import Container, pack
from ardmzip.efforts import Effort
from ardmzip.errors import FormatError
from ardmzip.pixelformat import PixelFormat


def encode(
    samples: np.ndarray, described: PixelFormat, encoder: Encoder, tile: tuple[int, int] | None, effort: Effort,
    progress: Progress | None = None, forced: bool = False,
) -> Container:  # fmt: skip
    """raster.encode, with all that an effort tries."""
    shares = _shares(progress, effort.trials)
    best = raster.encode(samples, described, encoder, tile, next(shares), forced, effort.phases)
    if effort.trials == 1 or not best.uses_model:
        return best
    from ardmzip import changes
    from ardmzip.changes import Changes

    base, untouched = pack(best), encoder.loaded()[0]
    chosen = Changes()

    def attempt(tried: Changes) -> bool:
        """Code with changes; whether that is the smallest file so far."""
        nonlocal best, chosen
        try:
            other = encoder.with_model(changes.apply(tried, untouched))
        except FormatError:  # sums would leave 32 bits
            return False
        coded = raster.encode(samples, described, other, tile, next(shares), forced, phase=encoder.phase)
        if not coded.uses_model:
            return False
        saved = len(base) - len(pack(coded))
        coded = replace(coded, changes=changes.pack(tried, untouched), saved=max(0, saved))
        if len(pack(coded)) >= len(pack(best)):
            return False
        best, chosen = coded, tried
        if encoder.gains is not None:
            encoder.gains[:] = other.gains or []
        return True

    if not any(part.learning for part in best.parts):
        return best
    for pace in effort.paces:
        if not attempt(replace(chosen, pace=pace)):
            break
    if effort.samples:
        from ardmzip.fitting.fit import Budget, fit

        model = changes.apply(chosen, untouched)
        planes = [raster.colour_planes(samples, described)]
        budget = Budget(effort.samples, effort.passes)
        found = fit(planes, model, budget, phase=encoder.phase, threads=encoder.threads, progress=next(shares))
        if found.steps:
            attempt(replace(found, pace=chosen.pace))
    if progress:
        progress(1.0)
    return best


def _shares(progress: Progress | None, trials: int) -> Iterator[Progress | None]:
    """The progress of each of some trials, which take about equally long."""
    for trial in range(trials):
        yield share_of(progress, trial / trials, (trial + 1) / trials)
