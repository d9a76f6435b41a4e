"""``ardmzip pack``."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ardmzip.cli import _common as common
from ardmzip.cli._archives import describe_archive, fitted
from ardmzip.cli._progress import Bar, Counter
from ardmzip.files import ARCHIVE_SUFFIX, check_target

if TYPE_CHECKING:
    from ardmzip.archive.packing import Coder
    from ardmzip.archive.writer import Writer
    from ardmzip.batches import Options
    from ardmzip.errors import ArdmError
    from ardmzip.sources import Source

_BATCH = 256


@click.command(
    epilog="""\b
Examples:
  ardmzip pack photos -o photos.ardmz            all images below a folder, by their relative paths
  ardmzip pack a.png b.tif -o two.ardmz          some files
  ardmzip pack -m thumb cifar -o cifar.ardmz     all by one model: faster where it suits
  ardmzip pack scans --fit 5 -o scans.ardmz      5 minutes to fit a model to them: for many of one kind
  ardmzip pack cifar-10-batches-py -o c.ardmz    batches of CIFAR-10, with labels
  ardmzip pack 'train-{000..007}.tar' -o t.ardmz WebDataset shards
  ardmzip pack more --append -o photos.ardmz     adds to an archive
  ardmzip list photos.ardmz                      what is in it
  ardmzip extract photos.ardmz 2024/a.tif        one image of it

\b
FILE is one of these, here or at a URL (s3://, https://, ...) that fsspec knows:
  an image, or a folder of images, of NumPy files, of tar shards or of parquet files
  .ardmz        another archive
  .npy, .npz    arrays uint8 or uint16 [n, height, width] or [n, height, width, 1 to 4]
  .parquet      Hugging Face datasets with image bytes (pip install 'ardmzip[datasets]')
  .tar, .tar.gz WebDataset shards; * and {000..127} stand for several
  batches of CIFAR-10 and CIFAR-100, python or binary, or a folder of them"""
)
@common.files_argument
@click.option("-o", "--output", "out", metavar="X.ardmz", required=True, type=common.path_type, help="The archive.")
@common.model_option
@click.option(
    "--fit", "minutes", type=click.FloatRange(min=0, min_open=True), metavar="MINUTES",
    help="First fit a model to a sample of the images, for about so many minutes, and put the changes of the model "
    "into the archive if they save more than they take: for many images of one kind.",
)  # fmt: skip
@common.steps_option
@click.option(
    "--learn/--no-learn", default=None,
    help="Let the network learn from each image, or do not. By default images of more than 64 x 64 pixels are learned "
    "from if their model says so.",
)  # fmt: skip
@common.batches_option
@common.tile_option
@common.device_options
@click.option(
    "--batch", type=click.IntRange(min=1), default=_BATCH, show_default=True, metavar="N",
    help="Code up to N small images of one size together, which is faster. The archive does not depend on it.",
)  # fmt: skip
@common.jobs_option
@common.engine_options
@click.option("--append", is_flag=True, help="Add to X.ardmz, which readers see as it was until all is done.")
@click.option("-f", "--force", is_flag=True, help="Replace X.ardmz if it exists, once the new one is complete.")
@common.strip_option
@click.option("--no-verify", is_flag=True, help="Do not decode the images to compare them.")
@click.option("--force-jpeg", is_flag=True, help="Take JPEG files too, though their images come out larger.")
@common.max_pixels_option
@common.continue_option
@click.option("-q", "--quiet", is_flag=True, help="Print errors only.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on standard output.")
def pack(
    files: tuple[str, ...], out: str, model: str, minutes: float | None, steps: int | None, learn: bool | None,
    batches: int | None, tile: int | str, device: str, backend: str, batch: int, workers: int, engine: str,
    address: str | None, append: bool, force: bool, strip: bool, no_verify: bool, force_jpeg: bool, max_pixels: int,
    continue_on_error: bool, quiet: bool, as_json: bool,
) -> int:  # fmt: skip
    """Pack many images into an archive, each of which can be read alone.

    FILE is an image, a folder, of which all images are taken, by their paths below it, or a dataset: see below. Of
    several FILEs the names of a folder's images, and of those of a dataset, begin with its own name. Identical images
    are stored once. Every image is decoded and compared before it is written.

    Until the archive is complete it is X.ardmz.part. After an interruption the same command goes on where that one
    ends, and makes the same archive, byte for byte. (Two fits of a model are never quite the same, as they take a time
    and not a number of steps; but what has been fitted is kept.)
    """
    target = Path(out)
    if target.suffix.lower() != ARCHIVE_SUFFIX:
        raise click.UsageError(f"{common.plain(out)}: the archive should end in {ARCHIVE_SUFFIX}")
    if append and force:
        raise click.UsageError("--append adds to an archive and -f replaces it: choose one")
    if append and minutes is not None:
        raise click.UsageError("--fit is for a new archive: --append codes by the models that an archive has")
    common.check_learning(learn, batches)
    started = time.perf_counter()
    failed: list[str] = []

    def work() -> None:
        if append:
            target.stat()
        else:
            check_target(target, force)
        from ardmzip.archive import packing
        from ardmzip.archive.writer import Writer
        from ardmzip.batches import Options
        from ardmzip.distributed import map_shards
        from ardmzip.sources import open_sources

        source = open_sources(files, force_jpeg=force_jpeg, max_pixels=max_pixels)
        options = Options(
            model=model, steps=steps, learn=learn, batches=batches, device=device, backend=backend,
            tile=None if tile == "none" else tile, strip=strip, verify=not no_verify,
        )  # fmt: skip
        if append:
            writer = Writer.append(target)
        else:
            with Bar(f"{out}: fit", quiet or minutes is None) as bar:
                writer, fit = packing.begin(target, source, options, minutes=minutes, overwrite=force, progress=bar)
            if fit is not None and not quiet:
                click.echo(common.plain(f"{out}  {fitted(fit.settings())}"), err=True)
        code = partial(packing.code, options=packing.coding(options, writer))
        coder = partial(map_shards, code, workers=workers, engine=engine, address=address)
        if writer.resumed and not quiet:
            common.note(out, f"going on after {len(writer.resumed)} images of an interrupted run")
        try:
            with writer:
                _pack(source, writer, options, batch, coder, continue_on_error, failed, quiet)
        except BaseException:
            _tell_of_rest(writer, target, quiet)
            raise
        values = describe_archive(out, target)
        values["seconds"] = round(time.perf_counter() - started, 3)
        values["failed"] = failed
        if not quiet:
            click.echo(_summary(out, values), err=True)
        if as_json:
            common.print_json(values)

    return max(common.exit_code(out, work), common.FAILED if failed else 0)


def _pack(
    source: Source, writer: Writer, options: Options, batch: int, coder: Coder, go_on: bool, failed: list[str],
    quiet: bool,
) -> None:  # fmt: skip
    from ardmzip.archive import packing

    with Counter(writer.unfinished.name, "images", quiet) as counter:

        def report(name: str, error: ArdmError | OSError | None) -> None:
            if error is not None:
                failed.append(name)
                common.complain(name, common.describe(error) or str(error))
            counter.add()

        packing.pack(source, writer, options, batch=batch, report=report, go_on=go_on, coder=coder)
        if len(writer) == 0 or counter.count == 0:
            raise click.ClickException("there are no images to pack")


def _tell_of_rest(writer: Writer, target: Path, quiet: bool) -> None:
    """What an interruption leaves."""
    new = writer.unfinished != target
    if not quiet and (writer.kept or (new and writer.differences)):
        what = f"{writer.kept} images are kept" if writer.kept else "the fitted model is kept"
        place = writer.unfinished.name if new else "the archive"
        common.note(str(target), f"{what} in {place}: the same command goes on from there")


def _summary(label: str, values: dict) -> str:
    copies = f", {values['copies']} of them the same as others" if values["copies"] else ""
    return (
        f"{common.plain(label)}  {values['images']} images{copies}  {values['raw_bytes']} -> {values['bytes']} bytes  "
        f"{values['bits_per_subpixel']:.3f} bits per sub-pixel  {values['seconds']:.1f} s"
    )
