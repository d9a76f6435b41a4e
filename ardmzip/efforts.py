"""What the numbers of ``--effort`` stand for (docs/FITTING.md)."""

from __future__ import annotations

from dataclasses import dataclass

from ardmzip.codes import QUICK, THOROUGH, Search


@dataclass(frozen=True)
class Effort:
    """What is tried for an image. phases: pixels of each atom by which relatives of the model (choice.RELATIVES) and
    the phases of the lattice are compared, 0 for taking the model as it is and the phase that statistics tell. seen,
    rounds: most pixels of an expert to fit the side information to, and how often, 0 for what is measured. paces: of
    learning heads, in 1/16 of the model's own, as long as each makes a smaller file than the one before. samples,
    passes: most pixels of an expert to fit its biases to, and how often, 0 for leaving them. least: pixels of an image
    that is worth it: a smaller one would take several times as long. search: how the code of a small image is chosen;
    views: in how many of the best phases and ways to turn it this is then coded."""

    phases: int = 0
    seen: int = 0
    rounds: int = 0
    paces: tuple[int, ...] = ()
    samples: int = 0
    passes: int = 0
    least: int = 0
    search: Search = QUICK
    views: int = 0


#: By number.
EFFORTS = (
    Effort(),
    Effort(512, least=1 << 16),
    Effort(1024, least=1 << 16),
    Effort(1024, 1024, 5, least=1 << 16, search=THOROUGH),
    Effort(2048, 4096, 8, search=THOROUGH, views=1),
    Effort(4096, 4096, 8, (32,), search=THOROUGH, views=2),
    Effort(4096, 8192, 8, (32,), 50_000, 1, search=THOROUGH, views=2),
    Effort(4096, 8192, 12, (32,), 100_000, 2, search=THOROUGH, views=3),
    Effort(4096, 16384, 12, (24, 32), 100_000, 3, search=THOROUGH, views=4),
    Effort(4096, 16384, 16, (24, 32, 48), 150_000, 4, search=THOROUGH, views=6),
)
#: The highest, and the one that is taken unless told otherwise.
MOST, DEFAULT = len(EFFORTS) - 1, 0
