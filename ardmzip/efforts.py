"""What the numbers of ``--effort`` stand for (docs/FITTING.md)."""

from __future__ import annotations

from dataclasses import dataclass


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
#: The highest, and the one that is taken unless told otherwise.
MOST, DEFAULT = len(EFFORTS) - 1, 3
