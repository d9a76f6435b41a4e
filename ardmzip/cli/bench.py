"""``ardmzip bench``: ardmzip and other lossless codecs on a dataset."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import click

from ardmzip.cli import _common as common
from ardmzip.cli._common import TileSize
from ardmzip.cli._progress import Bar
from ardmzip.errors import ArdmError
from ardmzip.files import check_target, write_atomic

if TYPE_CHECKING:
    from ardmzip.benchmark.dataset import Contest, Measure, Result

_RIVALS = ("png", "webp", "jxl-e7", "jxl-e9", "zstd", "xz")
_USUAL = ("png", "webp", "jxl-e9", "zstd", "xz")


@dataclass(frozen=True)
class Settings:
    """The options of ``bench``."""

    against: tuple[str, ...]
    limit: int | None
    out: Path | None
    force: bool
    #: Options of api.compress.
    compress: dict[str, Any]
    workers: int
    engine: str
    address: str | None
    force_jpeg: bool
    max_pixels: int
    quiet: bool
    as_json: bool


@click.command(
    short_help="Compare with other codecs on a dataset.",
    epilog="""\b
Examples:
  ardmzip bench photos                            all images below a folder
  ardmzip bench photos --limit 20 --out report.md a page with plots
  ardmzip bench cifar-10-batches-py --limit 1000 --out report.html
  ardmzip bench 'train-{000..007}.tar' -m fast    WebDataset shards
  ardmzip bench https://host/test.parquet --limit 100 --against jxl-e9 --against webp
  ardmzip bench x.npz --steps 20 --no-learn --json
  ardmzip bench photos --jobs 8 --engine ray --address auto

\b
DATASET is one of these, here or at a URL (s3://, https://, ...) that fsspec knows:
  an image, or a folder of images, of NumPy files, of tar shards or of parquet files
  .ardmz        an archive
  .npy, .npz    arrays uint8 or uint16 [n, height, width] or [n, height, width, 1 to 4]
  .parquet      Hugging Face datasets with image bytes (pip install 'ardmzip[datasets]')
  .tar, .tar.gz WebDataset shards; * and {000..127} stand for several
  batches of CIFAR-10 and CIFAR-100, python or binary, or a folder of them""",
)
@click.argument("dataset", nargs=-1, required=True, metavar="DATASET...", type=common.path_type)
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Only the first N images.")
@click.option(
    "--against", multiple=True, type=click.Choice(_RIVALS), default=_USUAL, show_default="all but jxl-e7",
    help="A codec to compare with; may be given several times. zstd and xz compress the raw samples of all images in "
    "one piece.",
)  # fmt: skip
@click.option(
    "--out", metavar="FILE", type=common.path_type,
    help="Write a report with plots, .md (the plots beside it) or .html. Needs pip install 'ardmzip[bench]'.",
)  # fmt: skip
@click.option("-f", "--force", is_flag=True, help="Overwrite an existing report.")
@common.model_option
@click.option("--steps", type=click.IntRange(min=1), metavar="S", help="At most S network calls, as in compress.")
@click.option("--learn/--no-learn", default=None, help="Let the network learn from each image or not, as in compress.")
@click.option("--batches", type=click.IntRange(min=1), metavar="N", help="At most N batches, as in compress.")
@click.option(
    "--tile", type=TileSize(), default="auto", show_default=True, metavar="N|none|auto", help="Tiles, as in compress."
)
@common.device_options
@common.jobs_option
@common.engine_options
@click.option("--force-jpeg", is_flag=True, help="Take JPEG files too.")
@common.max_pixels_option
@click.option("-q", "--quiet", is_flag=True, help="Print the table and errors only.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of the table.")
def bench(
    dataset: tuple[str, ...], limit: int | None, against: tuple[str, ...], out: str | None, force: bool, model: str,
    steps: int | None, learn: bool | None, batches: int | None, tile: int | str, device: str, backend: str,
    workers: int, engine: str, address: str | None, force_jpeg: bool, max_pixels: int, quiet: bool, as_json: bool,
) -> int:  # fmt: skip
    """Compare ardmzip with PNG, WebP and JPEG XL on the images of a dataset: bits, images and megabytes a second.

    Each image is coded by every codec as a file of its own, decoded again and compared. zstd -19 and xz -9 get the raw
    samples of all images in one piece: that gives up reading an image alone, and shows what it would bring. Images are
    read one after the other, so the dataset may be of any size.

    An image that cannot be read, or does not come back, is told on stderr and left out, and the exit code is 1.
    --jobs N measures N images at a time; the speeds are then those of one process with its share of the threads. With
    --out, a report shows also bits per sub-pixel against network calls and where the time goes, both measured on the
    first images, and a histogram of the gains per image.
    """
    if learn is False and batches is not None:
        raise click.UsageError("--batches is for learning: leave out --no-learn")
    target = None if out is None else Path(out)
    if target is not None and target.suffix.lower() not in (".md", ".html"):
        raise click.UsageError(f"{common.plain(out)}: a report is a .md or .html file")
    compress = {
        "model": model, "steps": steps, "learn": learn, "batches": batches, "tile": None if tile == "none" else tile,
        "device": device, "backend": backend,
    }  # fmt: skip
    settings = Settings(
        against, limit, target, force, compress, workers, engine, address, force_jpeg, max_pixels, quiet, as_json
    )
    problems: list[str] = []
    code = common.exit_code(" ".join(dataset), lambda: _bench(dataset, settings, problems))
    return common.FAILED if problems else code


def _bench(dataset: tuple[str, ...], s: Settings, problems: list[str]) -> None:
    from ardmzip.benchmark import codecs, report
    from ardmzip.benchmark.dataset import Bench, Contest, make_solids
    from ardmzip.sources import open_sources

    if s.out is not None:
        report.need_matplotlib()
        for path in (s.out, *_plot_files(s.out).values()):
            check_target(path, s.force)
    source = open_sources(dataset, force_jpeg=s.force_jpeg, max_pixels=s.max_pixels)
    threads = max(1, codecs.available_threads() // s.workers)
    about = report.tables.machine(threads)
    contest = Contest(tuple(name for name in _RIVALS[:4] if name in s.against), tuple(s.compress.items()), threads)
    try:
        made = contest.codecs()
    except codecs.MissingCodec as error:
        raise ArdmError(str(error)) from error

    def tell(text: str) -> None:
        problems.append(text) if not problems else None
        common.complain(None, text)

    bench = Bench(made, make_solids([name for name in _RIVALS if name in s.against]), tell)
    total = s.limit or 0 if (length := source.length()) is None else min(length, s.limit or length)
    with Bar(dataset[0], s.quiet) as bar:
        bench.run(source, s.limit, lambda count: bar(count / total) if total else None, _elsewhere(s, contest))
    result = bench.result()
    if not result.images:
        raise ArdmError("there is no image to measure on")
    if s.out is not None:
        bench.measure_sample(result, contest.ardmzip)
        _write(result, s, " ".join(dataset), about)
    if s.as_json:
        common.print_json(report.as_json(result, " ".join(dataset)))
    else:
        common.print_out(f"{report.size_line(result)}\n")
        common.print_out(report.tables.aligned(report.headings(result), report.cells(result)).rstrip("\n"))
    if not s.quiet:
        for text in result.notes:
            common.note(dataset[0], text)


def _elsewhere(s: Settings, contest: Contest) -> Measure | None:
    """What measures in several processes or on Ray, if that is asked for."""
    if s.workers == 1 and s.engine == "local":
        return None
    from ardmzip.distributed import map_shards

    return lambda images: map_shards(contest.measure, images, s.workers, engine=s.engine, address=s.address)


def _plot_files(out: Path) -> dict[str, Path]:
    """The files of the plots of a Markdown page."""
    if out.suffix.lower() != ".md":
        return {}
    return {name: out.with_name(f"{out.stem}-{name}.svg") for name in ("calls", "gains", "times")}


def _write(result: Result, s: Settings, title: str, about: dict[str, Any]) -> None:
    from ardmzip.benchmark import report

    assert s.out is not None
    given = {key: value for key, value in s.compress.items() if value is not None}
    options = ", ".join(f"{key} {value}" for key, value in given.items())
    title = common.plain(title)
    plots = report.plots(result)
    files = _plot_files(s.out)
    if files:
        for plot in plots:
            write_atomic(files[plot.name], plot.svg, s.force)
        links = {name: quote(path.name) for name, path in files.items()}
        page = report.markdown_page(result, title, options, about, links, plots)
    else:
        page = report.html_page(result, title, options, about, plots)
    write_atomic(s.out, page.encode(), s.force)
