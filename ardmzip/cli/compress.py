"""``ardmzip compress``."""

from __future__ import annotations

import time
from dataclasses import dataclass

import click

from ardmzip.cli import _common as common
from ardmzip.cli._jobs import STREAM, Job, plan, run_jobs
from ardmzip.cli._progress import Bar
from ardmzip.files import compressed_name


@dataclass(frozen=True)
class Settings:
    """The options of ``compress``."""

    model: str
    steps: int | None
    device: str
    backend: str
    force: bool
    remove: bool
    verify: bool
    messages: common.Messages


@click.command(
    epilog="""\b
Examples:
  ardmzip compress img.png                       writes img.ardm beside img.png
  ardmzip compress a.png b.tif -o archive/       writes archive/a.ardm and archive/b.ardm
  ardmzip compress img.png -o other.ardm -f      overwrites other.ardm
  ardmzip compress --rm scans/*.png              replaces the scans by .ardm files
  ardmzip compress --steps 20 img.png            fewer network calls, a larger file
  ardmzip compress - < img.png > img.ardm        from stdin to stdout"""
)
@common.files_argument
@click.option("-o", "--output", "out", metavar="OUT", help="Output file (for one FILE) or existing folder; - is stdout")
@common.model_option
@click.option(
    "--steps", type=click.IntRange(min=1), metavar="S",
    help="At most S network calls; by default as many as give the smallest file.",
)  # fmt: skip
@common.device_options
@common.output_options
@common.message_options
@click.option("--no-verify", is_flag=True, help="Do not decode the result to compare it with the image.")
def compress(
    files: tuple[str, ...], out: str | None, model: str, steps: int | None, device: str, backend: str, force: bool,
    remove: bool, stdout: bool, quiet: bool, verbose: bool, as_json: bool, no_verify: bool,
) -> int:  # fmt: skip
    """Compress images to .ardm files, without loss.

    FILE is an 8-bit RGB or gray image in any format that Pillow reads, or - for stdin. The output is named after it:
    img.png becomes img.ardm. Every result is decoded and compared with the image before it is written. Pixels are kept
    exactly; metadata (EXIF, colour profiles) is not stored yet. To restore a file, its model must be installed.
    """
    if remove and no_verify:
        raise click.UsageError("--rm removes only what was verified: leave out --no-verify")
    jobs = plan(files, out, compressed_name, stdout=stdout, remove=remove, as_json=as_json)
    messages = common.Messages(quiet, verbose, as_json)
    settings = Settings(model, steps, device, backend, force, remove, not no_verify, messages)
    return run_jobs(jobs, lambda job: _compress(job, settings))


def _compress(job: Job, s: Settings) -> None:
    started = time.perf_counter()
    job.check_target(s.force)
    from ardmzip import api
    from ardmzip.cli import _images

    source = job.read()
    image = _images.decode(source)
    with Bar(job.label, s.messages.quiet) as bar:
        begun = time.perf_counter()
        data = api.compress(
            image, model=s.model, steps=s.steps, device=s.device, backend=s.backend, verify=s.verify, progress=bar
        )
        coding = time.perf_counter() - begun
    job.write(data, s.force)
    if s.remove:
        job.remove_source()

    encoding = bar.half if s.verify and bar.half is not None else coding
    times = f"encode {encoding:.2f} s, " + (f"verify {coding - encoding:.2f} s" if s.verify else "not verified")
    _tell(job, s, len(source), data, time.perf_counter() - started, times)
    lost = _images.metadata(image)
    if lost and not s.messages.quiet:
        common.note(job.label, f"not stored: {', '.join(lost)}")


def _tell(job: Job, s: Settings, read: int, data: bytes, seconds: float, times: str) -> None:
    from ardmzip import model
    from ardmzip.container import unpack

    container, name = unpack(data), model.load(s.model).name
    report = common.Report(
        input=job.label if job.source else STREAM, output=job.output if job.target else STREAM, input_bytes=read,
        output_bytes=len(data), model=name, seconds=round(seconds, 3), **common.content(container, len(data)),
    )  # fmt: skip
    details = (
        f"{report.width} x {report.height} {common.kind(report.channels)}, {report.raw_bytes} bytes raw, "
        f"model {name} ({container.model_id.hex()}), {report.calls} network calls, "
        f"{common.backend_name(s.device, s.backend)}, {times}"
    )
    s.messages.tell(report, f"{job.label} -> {job.output}  {report.figures}", details)
