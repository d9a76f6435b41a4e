"""``ardmzip compress``."""

from __future__ import annotations

import textwrap
import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import click

from ardmzip.cli import _common as common
from ardmzip.cli._jobs import STREAM, Job, plan, run_jobs
from ardmzip.cli._progress import Bar
from ardmzip.efforts import DEFAULT, MOST
from ardmzip.files import SOURCE_SUFFIXES, SUFFIX, compressed_name, lengthened_name

if TYPE_CHECKING:
    from ardmzip.learning import Gain

_MIN_PIXELS = 1000  # a level with fewer tells little about learning by itself


@dataclass(frozen=True)
class Settings:
    """The options of ``compress``."""

    model: str
    steps: int | None
    learn: bool | None
    batches: int | None
    effort: int | None
    tile: int | str | None
    device: str
    backend: str
    force: bool
    remove: bool
    verify: bool
    strip: bool
    force_jpeg: bool
    max_pixels: int
    messages: common.Messages


@click.command(
    epilog="""\b
Examples:
  ardmzip compress img.png                       writes img.ardm beside img.png
  ardmzip compress a.png b.tif -o archive/       writes archive/a.ardm and archive/b.ardm
  ardmzip compress img.png -o other.ardm -f      overwrites other.ardm
  ardmzip compress --rm scans/*.png              replaces the scans by .ardm files
  ardmzip compress -r photos -o archive          photos/2024/a.tif becomes archive/2024/a.ardm
  ardmzip compress -r photos --jobs 4 --continue-on-error
  ardmzip compress -r scans --keep-suffix        scans/a.png becomes scans/a.png.ardm, beside a.tif.ardm
  ardmzip compress --steps 20 img.png            fewer network calls, a larger file
  ardmzip compress --no-learn img.png            faster, a larger file
  ardmzip compress --effort 9 img.png            slower, a smaller file
  ardmzip compress --tile 1024 map.tif           tiles of about 1024 x 1024 pixels
  ardmzip compress --strip img.png               without EXIF data, colour profile and texts
  ardmzip compress - < img.png > img.ardm        from stdin to stdout

\b
Suffixes of the images that -r takes:
"""
    + textwrap.fill(" ".join(SOURCE_SUFFIXES), 90, initial_indent="  ", subsequent_indent="  "),
)
@common.files_argument
@click.option(
    "-o", "--output", "out", metavar="OUT", type=common.path_type,
    help="Output file (for one FILE) or existing folder; - is stdout.",
)  # fmt: skip
@common.recursive_option("images")
@click.option(
    "--keep-suffix", is_flag=True,
    help="Name the output img.png.ardm, not img.ardm: for folders with img.png and img.tif. decompress makes img.png "
    "of it.",
)  # fmt: skip
@common.model_option
@common.steps_option
@click.option(
    "--learn/--no-learn", default=None,
    help="Let the network learn from the image, or do not: faster, a larger file. By default the model says which: all "
    "learn but those made for speed.",
)  # fmt: skip
@common.batches_option
@click.option(
    "--effort", type=click.IntRange(0, MOST), metavar="0..9",
    help=f"How hard to try for a small file: 0 is quickest, 1 tries models for special kinds of images (photo-cd), "
    f"{MOST} fits the model to the image with all care. "
    f"Restoring takes as long as ever.  [default: {DEFAULT}]",
)  # fmt: skip
@common.tile_option
@common.device_options
@common.output_options
@common.jobs_option
@common.continue_option
@common.max_pixels_option
@common.message_options("; the bits by level; and what learning gained (measuring it takes time)")
@common.strip_option
@click.option("--force-jpeg", is_flag=True, help="Compress JPEG files too, though the result is larger than the JPEG.")
@click.option("--no-verify", is_flag=True, help="Do not decode the result to compare it with the image.")
def compress(
    files: tuple[str, ...], out: str | None, model: str, steps: int | None, learn: bool | None, batches: int | None,
    effort: int | None, tile: int | str, device: str, backend: str, force: bool, remove: bool, stdout: bool,
    quiet: bool, verbose: bool, as_json: bool, strip: bool, force_jpeg: bool, no_verify: bool, recursive: bool,
    workers: int, continue_on_error: bool, max_pixels: int, keep_suffix: bool,
) -> int:  # fmt: skip
    """Compress images to .ardm files, without loss.

    FILE is a PNG, TIFF, WebP, BMP, PNM, GIF or TGA image, or - for stdin: gray, RGB or palette, with or without alpha,
    1 to 16 bits. The output is named after it: img.png becomes img.ardm. Every result is decoded and compared with the
    image before it is written. Pixels, depth and palette are kept exactly, and so is metadata (EXIF data, colour
    profile, XMP, texts, resolution) unless --strip is given. To restore a file, its model must be installed.

    Of several files the first that fails ends the run, unless --continue-on-error is given; a last line sums up.
    """
    if remove and no_verify:
        raise click.UsageError("--rm removes only what was verified: leave out --no-verify")
    common.check_learning(learn, batches)
    common.check_model(model)
    jobs = plan(
        files, out, lengthened_name if keep_suffix else compressed_name,
        suffixes=SOURCE_SUFFIXES if recursive else None, stdout=stdout, remove=remove, as_json=as_json,
        continue_on_error=continue_on_error, hint="" if keep_suffix else "; --keep-suffix tells them apart",
    )  # fmt: skip
    for job in jobs:
        _check_suffix(job)
    messages = common.Messages(quiet, verbose, as_json)
    settings = Settings(
        model, steps, learn, batches, effort, None if tile == "none" else tile, device, backend, force, remove,
        not no_verify, strip, force_jpeg, max_pixels, messages,
    )  # fmt: skip
    return run_jobs(jobs, partial(_compress, s=settings), common.Batch(workers, continue_on_error, quiet, as_json))


def _check_suffix(job: Job) -> None:
    """Refuse img.png and the like, which would hold no image of that kind; a name without a suffix is fine."""
    if job.target is not None and job.target.suffix.lower() not in (SUFFIX, ""):
        raise click.UsageError(f"{common.plain(job.output)}: OUT should end in {SUFFIX}")


def _compress(job: Job, s: Settings) -> common.Report:
    started = time.perf_counter()
    job.check_target(s.force)
    from ardmzip import api, reading

    source = job.read()
    picture = reading.read(source, s.force_jpeg, s.max_pixels)
    gains: list[Gain] | None = [] if s.messages.detailed else None
    with Bar(job.label, s.messages.quiet) as bar:
        begun = time.perf_counter()
        data = api.compress(
            picture, model=s.model, steps=s.steps, learn=s.learn, batches=s.batches, effort=s.effort,
            device=s.device, backend=s.backend, tile=s.tile, strip=s.strip, verify=s.verify, progress=bar, gains=gains,
        )  # fmt: skip
        coding = time.perf_counter() - begun
    job.write(data, s.force)
    lost = ", ".join(() if s.strip else picture.lost)
    grown = picture.lossy and len(data) > len(source)
    if s.remove:
        job.remove_source(f"not stored: {lost}" if lost else "compressed with loss, it is smaller" if grown else "")

    encoding = bar.half if s.verify and bar.half is not None else coding
    measured = " with measuring" if any(gain.seen for gain in gains or ()) else ""
    verified = f"verify {coding - encoding:.2f} s" if s.verify else "not verified"
    times = f"encode {encoding:.2f} s{measured}, {verified}"
    report = _tell(job, s, len(source), data, time.perf_counter() - started, times, gains)
    if lost and not s.messages.quiet:
        common.note(job.label, f"not stored: {lost}")
    if grown and not s.messages.quiet:
        common.note(job.label, f"larger than the source, which is compressed with loss ({len(source)} bytes)")
    return report


def _tell(
    job: Job, s: Settings, read: int, data: bytes, seconds: float, times: str, gains: list[Gain] | None
) -> common.Report:  # fmt: skip
    from ardmzip import api, model
    from ardmzip.container import unpack

    container = unpack(data)
    name, wanted = common.model_name(container.model_id), s.learn
    if container.uses_model:
        used = model.find(container.model_id) if s.model == api.AUTO else model.load(s.model)
        name = name if s.model == api.AUTO else used.name
        wanted = used.learn_by_default if s.learn is None else s.learn
    report = common.Report(
        input=job.label if job.source else STREAM, output=job.output if job.target else STREAM, input_bytes=read,
        output_bytes=len(data), model=name, seconds=round(seconds, 3), **common.content(container, len(data)),
    )  # fmt: skip
    useless = " (learning is of no use here)" if wanted and not report.learning else ""
    details = f"{common.details(container, report, s.device, s.backend, useless)}, {times}"
    changes = [] if container.changes is None else [common.fitted(len(container.changes), container.saved)]
    measured = [*changes, *_levels(gains or []), *(_learned(gains or []) if report.learning else [])]
    s.messages.tell(report, f"{job.label} -> {job.output}  {report.figures}", details, *measured)
    return report


class _Bits(NamedTuple):
    """Code lengths in bits, by the frozen head and as coded, of so many sub-pixels."""

    pixels: int
    frozen: float
    coded: float


def _by_level(gains: Iterable[Gain]) -> dict[str, _Bits]:
    """What the model codes at every level with enough sub-pixels, finest first, and at the others together."""
    sums: defaultdict[int, list[Gain]] = defaultdict(list)
    for gain in gains:
        sums[gain.level].append(gain)
    parts: defaultdict[str, list[Gain]] = defaultdict(list)
    for level in sorted(sums):
        large = sum(gain.pixels for gain in sums[level]) >= _MIN_PIXELS
        parts[f"level {level}" if large else "coarser"] += sums[level]
    return {name: _sum(part) for name, part in parts.items()}


def _sum(gains: Iterable[Gain]) -> _Bits:
    pixels, frozen, coded = zip(*((gain.pixels, gain.frozen, gain.learned) for gain in gains), strict=True)
    return _Bits(sum(pixels), sum(frozen), sum(coded))


def _levels(gains: Iterable[Gain]) -> list[str]:
    """The line that tells which share of the bits every level takes, and how many a sub-pixel.

    >>> from ardmzip.learning import Gain
    >>> _levels([Gain(0, 0, 3000, 6100.0, 6000.0), Gain(1, 0, 1000, 3000.0, 3000.0), Gain(2, 0, 300, 1000.0, 1000.0)])
    ['bits by level: level 0: 60.0 %, 2.000 a sub-pixel; level 1: 30.0 %, 3.000; coarser: 10.0 %, 3.333']
    >>> _levels([])
    []
    """
    parts = _by_level(gains)
    total = sum(part.coded for part in parts.values())
    if total == 0:
        return []
    texts = [
        f"{name}: {100 * part.coded / total:.1f} %, {part.coded / part.pixels:.3f}" for name, part in parts.items()
    ]
    return ["bits by level: " + "; ".join([f"{texts[0]} a sub-pixel", *texts[1:]])]


def _learned(gains: Iterable[Gain]) -> list[str]:
    """The line that tells what learning gained, in all and at every level with enough pixels.

    >>> from ardmzip.learning import Gain
    >>> _learned([Gain(0, 0, 2000, 1000.0, 980.0), Gain(1, 0, 1000, 500.0, 505.0), Gain(2, 0, 300, 100.0, 90.0)])
    ['learning: 1.56 % smaller (level 0: 2.00 % smaller, level 1: 1.00 % larger, coarser: 10.00 % smaller)']
    >>> _learned([])
    []
    """
    parts = _by_level(gains)
    frozen, learned = (sum(part[i] for part in parts.values()) for i in (1, 2))
    if frozen == 0:
        return []
    levels = ", ".join(f"{name}: {_change(part.frozen, part.coded)}" for name, part in parts.items())
    return [f"learning: {_change(frozen, learned)}" + (f" ({levels})" if len(parts) > 1 else "")]


def _change(frozen: float, learned: float) -> str:
    """By how much of its size something has become smaller or larger.

    >>> _change(200.0, 198.0), _change(200.0, 201.0)
    ('1.00 % smaller', '0.50 % larger')
    """
    return f"{100 * abs(1 - learned / frozen):.2f} % {'larger' if learned > frozen else 'smaller'}"
