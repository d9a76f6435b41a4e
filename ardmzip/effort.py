"""How hard the encoder tries (docs/FITTING.md): phases and paces by trial, and the model fitted to the image.

The smallest of all files is kept. Only the phase is chosen by a sample of the pixels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from ardmzip import raster
from ardmzip.body import Encoder, Progress, share_of
from ardmzip.container import Container, pack
from ardmzip.pixelformat import PixelFormat


@dataclass(frozen=True)
class Effort:
    """What to try for an image. phases: pixels of each atom by which to try the phases, 0 for none. paces: of learning
    heads, in 1/16 of the model's own. samples, passes: most pixels of an expert to fit it to, and how often to go
    through them; 0 for no fitting."""

    phases: int = 0
    paces: tuple[int, ...] = ()
    samples: int = 0
    passes: int = 0

    @property
    def trials(self) -> int:
        """How often an image is coded, or fitted to, at most."""
        return 1 + len(self.paces) + (2 if self.samples else 0)


#: By number.
EFFORTS = (
    Effort(),
    Effort(512),
    Effort(2048),
    Effort(4096),
    Effort(4096, (32,)),
    Effort(4096, (32,), 20_000, 2),
    Effort(4096, (32,), 40_000, 3),
    Effort(4096, (32,), 60_000, 4),
    Effort(4096, (24, 32), 100_000, 4),
    Effort(4096, (24, 32, 48), 100_000, 8),
)
DEFAULT = 3


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
        other = encoder.with_model(changes.apply(tried, untouched))
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
