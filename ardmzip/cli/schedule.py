"""``ardmzip schedule``: the network calls and the learning batches of an image, and what they cost or gain."""

from __future__ import annotations

import io
import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ardmzip.cli import _common as common
from ardmzip.errors import ArdmError, ModelError
from ardmzip.files import check_target, write_atomic

if TYPE_CHECKING:
    import numpy as np

    from ardmzip.model import Model
    from ardmzip.order import LatticeOrder
    from ardmzip.schedule import Schedule


class Size(click.ParamType):
    """WIDTHxHEIGHT, as in 768x512."""

    name = "size"

    def convert(
        self, value: str | tuple[int, int], param: click.Parameter | None, context: click.Context | None
    ) -> tuple[int, int]:
        if isinstance(value, tuple):
            return value
        match = re.fullmatch(r"([1-9]\d{0,8})x([1-9]\d{0,8})", value)
        if match is None:
            self.fail(f"{value!r} is not a size such as 768x512", param, context)
        return int(match[1]), int(match[2])


@dataclass(frozen=True)
class Problem:
    """What is to be cut: the atoms of an order, and what they cost at every step."""

    title: str
    model: Model
    order: LatticeOrder
    sizes: np.ndarray
    loss: np.ndarray

    def per_subpixel(self, bits: float) -> float:
        return bits / float(self.sizes.sum())


@click.command(
    short_help="Show how an image is cut into network calls.",
    epilog="""\b
Examples:
  ardmzip schedule                               what compress does with 768 x 512 pixels
  ardmzip schedule --steps 20 --size 4000x3000   the best cut into at most 20 network calls
  ardmzip schedule --batches 10                  the best 10 batches to learn from
  ardmzip schedule --steps 20 --image img.png --plot cut.png

\b
The table names atoms by their number in coding order (docs/FORMAT.md, "Order"); an atom is one channel of one of
the three lattices of a level. "0-35" is one network call for the atoms 0 to 35. Every atom of level 0 has a learning
head of its own; its batches are given by the pixels seen at their ends.""",
)
@click.option(
    "-m", "--model", default="photo", show_default=True, metavar="MODEL",
    help="Name of an installed model (see ardmzip models), or the path of a model file.",
)  # fmt: skip
@click.option(
    "--steps", type=click.IntRange(min=1), metavar="S",
    help="At most S network calls; by default one for every atom, as in compress.",
)  # fmt: skip
@click.option(
    "--batches", type=click.IntRange(min=1), metavar="N",
    help="Learn in at most N batches; by default in many, as in compress.",
)  # fmt: skip
@click.option("--size", type=Size(), default="768x512", show_default=True, metavar="WxH", help="Size of the image.")
@click.option("--image", metavar="FILE", help="Take size and kind from an image instead.")
@click.option("--gray", is_flag=True, help="Gray instead of RGB.")
@click.option("--plot", metavar="OUT", help="Draw expected bits against network calls, and the cut (.png, .svg, .pdf).")
@click.option("-f", "--force", is_flag=True, help="Overwrite an existing plot.")
def schedule(
    model: str, steps: int | None, batches: int | None, size: tuple[int, int], image: str | None, gray: bool,
    plot: str | None, force: bool,
) -> int:  # fmt: skip
    """Show how an image is cut into network calls, and into batches to learn from.

    Sub-pixels that are coded in one call are predicted without knowing each other, so fewer calls cost more bits.
    Without --steps this shows what compress does by default: a call for every atom. With it, dynamic programming over
    losses that were measured with the model on validation images finds the cheapest cut for at most S calls. Both are
    compared with the optimum for any number of calls, which joins atoms where that costs nothing.

    The network's last layer, the head, learns after every batch of pixels, so fewer batches gain less. With --batches
    the same programme finds the best ends for at most N of them, from the model's learning curve. The curve tells
    what a head gains by pixels seen in many batches: plans of few batches gain less than is expected here.
    """
    target = None if plot is None else Path(plot)
    if target is not None and target.suffix.lower() not in (".png", ".svg", ".pdf"):
        raise click.UsageError(f"{common.plain(plot)}: a plot is a .png, .svg or .pdf file")
    common.check_model(model)
    return common.exit_code(image or model, lambda: _schedule(model, steps, batches, size, image, gray, target, force))


def _schedule(
    model: str, steps: int | None, batches: int | None, size: tuple[int, int], image: str | None, gray: bool,
    plot: Path | None, force: bool,
) -> None:  # fmt: skip
    if plot is not None:
        check_target(plot, force)
    from ardmzip.schedule import best_schedule

    channels = 1 if gray else 3
    if image is not None:
        size, channels = _measure(Path(image))
    problem = _problem(model, *size, channels)
    common.print_out(problem.title)
    if not problem.sizes.any():
        common.print_out("a single pixel needs no network call")
        return
    optimum = best_schedule(problem.sizes, problem.loss)
    chosen = _every_atom(problem) if steps is None else best_schedule(problem.sizes, problem.loss, steps)
    parts = _table(problem, chosen.calls), _learning(problem, batches), _totals(problem, chosen, optimum, steps is None)
    common.print_out("\n".join(line for part in parts for line in ("", *part)))
    if plot is not None:
        write_atomic(plot, _plot(problem, chosen, optimum, plot.suffix[1:].lower()), force)
        click.echo(common.plain(f"plot -> {plot}"), err=True)


def _measure(path: Path) -> tuple[tuple[int, int], int]:
    """Size and colour channels of an image file."""
    from ardmzip.reading import read

    picture = read(path.read_bytes(), force_jpeg=True)
    return (picture.width, picture.height), picture.format.colours


def _problem(model: str, width: int, height: int, channels: int) -> Problem:
    from ardmzip import model as models
    from ardmzip.order import LatticeOrder
    from ardmzip.schedule import loss_for_order

    loaded = models.load(model)
    if loaded.random_order:
        raise ModelError(f"model {loaded.name} codes in a random order; this command is for the lattice order")
    if channels not in loaded.loss:
        raise ModelError(f"model {loaded.name} has no losses for {common.kind(channels)} images")
    order = LatticeOrder(height, width, channels)
    title = (
        f"model {loaded.name} ({loaded.id.hex()}), {width} x {height} {common.kind(channels)}: "
        f"{len(order.atoms)} atoms in {order.levels} levels"
    )
    return Problem(title, loaded, order, order.sizes(), loss_for_order(loaded.loss[channels], order))


def _every_atom(p: Problem) -> Schedule:
    """What ``compress`` does by default: a call for every atom that is not empty."""
    from ardmzip.schedule import Schedule, expected_bits

    filled = p.sizes.nonzero()[0].tolist()
    calls = (0, *filled[1:])  # empty atoms before the first join its call
    return Schedule(calls, expected_bits(calls, p.sizes, p.loss))


def _table(p: Problem, calls: tuple[int, ...]) -> list[str]:
    """One line a level: the calls that begin in it, as ranges of atoms."""
    atoms_a_level = 3 * p.order.channels
    ranges = list(zip(calls, (*calls[1:], len(p.order.atoms)), strict=True))
    lines = [f"{'level':>5}  {'pixels':>11}  {'calls':>5}  atoms of each call"]
    for level in reversed(range(p.order.levels)):
        first = (p.order.levels - 1 - level) * atoms_a_level
        here = [f"{a}-{b - 1}" if b - a > 1 else f"{a}" for a, b in ranges if first <= a < first + atoms_a_level]
        rows, columns = p.order.level_shape(level)
        lines.append(f"{level:>5}  {f'{columns}x{rows}':>11}  {len(here):>5}  {'  '.join(here) or 'in the call above'}")
    return lines


def _learning(p: Problem, budget: int | None) -> list[str]:
    """The batches that a head of level 0 learns from, and what that should gain."""
    if not p.model.learns:
        return [f"learning       none: model {p.model.name} does not tell how"]
    from ardmzip.schedule import best_batches
    from ardmzip.streams import LIMIT, batches

    pixels, curve = int(p.sizes[-3 * p.order.channels :].max()), p.model.learning_gain
    rule = list(batches(0, pixels))
    if not curve.any():
        return [
            f"learning       {_count(rule)} for the {pixels} pixels of a head at level 0",
            f"expected gain  unknown: model {p.model.name} has no measured learning curve"
            + ("" if budget is None else ", so --batches cannot be planned"),
        ]
    usual = f"{_expected_gain(rule, curve):.4f} bits per sub-pixel of level 0"
    if budget is None:
        return [
            f"learning       {_count(rule)} for the {pixels} pixels of a head at level 0",
            f"expected gain  {usual}",
        ]
    ends = best_batches(pixels, curve, budget).ends
    chosen = list(batches(0, pixels, ends))
    limit = f", {len(chosen)} in all, as none may exceed {LIMIT}" if len(chosen) > len(ends) else ""
    return [
        f"learning       {_count(ends)} for the {pixels} pixels of a head at level 0{limit}",
        *(f"{'':15}{line}" for line in textwrap.wrap(f"ending at {' '.join(map(str, ends))}", 100)),
        f"expected gain  {_expected_gain(chosen, curve):.4f} bits per sub-pixel of level 0",
        f"by default     {usual} with {_count(rule)}",
    ]


def _count(batches: Sequence[int]) -> str:
    return "1 batch" if len(batches) == 1 else f"{len(batches)} batches"


def _expected_gain(batches: list[int], curve: np.ndarray) -> float:
    """Mean gain in bits a sub-pixel: that of a batch is what the curve says of the pixels seen before it."""
    import numpy as np

    from ardmzip.schedule import learning_grid

    seen = np.cumsum([0, *batches[:-1]])
    return float(np.average(np.interp(seen, learning_grid(len(curve)), curve), weights=batches))


def _totals(p: Problem, chosen: Schedule, optimum: Schedule, default: bool) -> list[str]:
    bits, best = p.per_subpixel(chosen.bits), p.per_subpixel(optimum.bits)
    over = f", {100 * (bits / best - 1):+.2f} %" if best > 0 else ""
    return [
        f"network calls  {len(chosen.calls)}"
        + (", one for every atom that has pixels: the default of compress" if default else ""),
        f"expected       {bits:.4f} bits per sub-pixel, without learning",
        f"optimum        {best:.4f} bits per sub-pixel with {len(optimum.calls)} calls (this cut{over})",
    ]


def _plot(p: Problem, chosen: Schedule, optimum: Schedule, suffix: str) -> bytes:
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise ArdmError("a plot needs matplotlib: pip install 'ardmzip[bench]'") from error
    from ardmzip.schedule import best_schedule

    budgets = range(1, len(optimum.calls) + 1)
    curve = [p.per_subpixel(best_schedule(p.sizes, p.loss, steps).bits) for steps in budgets]
    figure = Figure(figsize=(8, 6.5), layout="constrained")
    above, below = figure.subplots(2, 1, height_ratios=[3, 2])
    above.plot(budgets, curve, marker=".", label="best cut for a number of calls")
    above.plot([len(chosen.calls)], [p.per_subpixel(chosen.bits)], "o", color="tab:red", label="this cut")
    # the cost rises steeply towards one call: what is of interest would be a flat line beside it
    top = 1.25 * min(curve)
    above.set(title=p.title, xlabel="network calls", ylabel="expected bits per sub-pixel", xscale="log")
    above.set_ylim(top=min(max(curve) + 0.05, max(top, 1.02 * p.per_subpixel(chosen.bits))))
    ticks = [tick for tick in (1, 2, 3, 5, 10, 20, 30, 50, 100, 200) if tick <= len(budgets)]
    above.set_xticks(ticks, labels=map(str, ticks))
    above.minorticks_off()
    above.grid(alpha=0.3)
    above.legend()
    _draw_cut(below, p, chosen.calls)
    buffer = io.BytesIO()
    figure.savefig(buffer, format=suffix, dpi=120)
    return buffer.getvalue()


def _draw_cut(axes: object, p: Problem, calls: tuple[int, ...]) -> None:
    """The calls in turn as bars in alternating colours over the atoms, with lines between the levels."""
    atoms = len(p.order.atoms)
    for index, (start, end) in enumerate(zip(calls, (*calls[1:], atoms), strict=True)):
        axes.broken_barh([(start, end - start)], (0, 1), color=("tab:blue", "lightsteelblue")[index % 2])  # type: ignore[attr-defined]
    atoms_a_level = 3 * p.order.channels
    for level in range(p.order.levels):
        left = (p.order.levels - 1 - level) * atoms_a_level
        axes.axvline(left, color="black", linewidth=0.8)  # type: ignore[attr-defined]
        axes.text(left + atoms_a_level / 2, 1.05, str(level), ha="center")  # type: ignore[attr-defined]
    axes.set(xlim=(0, atoms), ylim=(0, 1.2), yticks=[], xlabel=f"{len(calls)} calls over the atoms, by level")  # type: ignore[attr-defined]
