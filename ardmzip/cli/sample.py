"""``ardmzip sample``."""

from __future__ import annotations

from pathlib import Path

import click

from ardmzip.cli import _common as common
from ardmzip.cli._progress import Bar
from ardmzip.files import check_target, write_atomic


@click.command(
    epilog="""\b
Examples:
  ardmzip sample -m oa-small -o grid.png               64 pictures of 32 x 32 pixels
  ardmzip sample -m oa-small -n 9 --steps 200 -o grid.png
  ardmzip sample -m photo -n 4 --side 256 -o grid.png
  ardmzip sample -m oa-small -n 16 --frames -o grid.png   an animated PNG, step by step"""
)
@click.option(
    "-m", "--model", required=True, metavar="MODEL", shell_complete=common.complete_model,
    help="Name of an installed model (see ardmzip models), or path of a model file.",
)  # fmt: skip
@click.option("-n", "--count", type=click.IntRange(1, 4096), default=64, show_default=True, help="Pictures to draw.")
@click.option(
    "--steps", type=click.IntRange(min=1), metavar="S",
    help="At most S network calls; by default as many as compress takes.",
)  # fmt: skip
@click.option(
    "--seed", type=click.IntRange(min=0), default=1, show_default=True, help="The same seed, the same pictures."
)
@click.option(
    "--side", type=click.IntRange(1, 1024), default=32, show_default=True, help="Rows and columns of a picture."
)
@click.option("--frames", is_flag=True, help="Write an animated PNG that shows how the pictures appear.")
@click.option("-o", "--output", "out", required=True, metavar="OUT.png", type=common.path_type, help="Output file.")
@click.option("-f", "--force", is_flag=True, help="Overwrite an existing file.")
@common.device_options
def sample(
    model: str, count: int, steps: int | None, seed: int, side: int, frames: bool, out: str, force: bool, device: str,
    backend: str,
) -> int:  # fmt: skip
    """Draw pictures from a model: what it would decode from random bits.

    The pictures are laid out in a grid. They are the same on every machine: the network's distributions are, and so are
    the random numbers.
    """
    target = Path(out)
    if target.suffix.lower() != ".png":
        raise click.UsageError(f"{common.plain(out)}: pictures are written to a .png file")

    def work() -> None:
        check_target(target, force)
        from ardmzip import model as models
        from ardmzip import network, sample

        loaded = models.load(model)
        with Bar(loaded.name, quiet=False) as bar:
            found = sample.samples(
                loaded, network.backend(device, backend), count, side, steps, seed, bar, frames
            )  # fmt: skip
        write_atomic(target, sample.to_png(found), force)
        click.echo(common.plain(f"{loaded.name} -> {out}  {count} pictures of {side} x {side} pixels"), err=True)

    return common.exit_code(out, work)
