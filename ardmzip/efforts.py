"""What the numbers of ``--effort`` stand for (docs/FITTING.md)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Effort:
    """What is tried for an image. phases: pixels of each atom by which the phases of the lattice are compared, 0 for
    taking the one that statistics tell. paces: of learning heads, in 1/16 of the model's own, as long as each makes a
    smaller file than the one before. samples, passes: most pixels of an expert to fit it to, and how often to go
    through them, 0 for no fitting."""

    phases: int = 0
    paces: tuple[int, ...] = ()
    samples: int = 0
    passes: int = 0


#: By number.
EFFORTS = (
    Effort(),
    Effort(512),
    Effort(1024),
    Effort(2048),
    Effort(4096, (32,)),
    Effort(4096, (32,), 25_000, 1),
    Effort(4096, (32,), 50_000, 2),
    Effort(4096, (32,), 100_000, 2),
    Effort(4096, (24, 32), 100_000, 3),
    Effort(4096, (24, 32, 48), 150_000, 4),
)
#: The highest, and the one that is taken unless told otherwise.
MOST, DEFAULT = len(EFFORTS) - 1, 3
