"""``ardmzip info``: what the container says; imports neither torch nor numba."""

from __future__ import annotations

from functools import partial
from typing import Any

import click

from ardmzip.cli import _common as common
from ardmzip.cli._jobs import STREAM, Job, input_jobs, run_jobs
from ardmzip.container import MAX_PIXELS


@click.command(
    epilog="""\b
Examples:
  ardmzip info img.ardm
  ardmzip info --json archive/*.ardm | jq .bits_per_subpixel"""
)
@common.files_argument
@common.continue_option
@common.max_pixels_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object for each file.")
def info(files: tuple[str, ...], continue_on_error: bool, max_pixels: int, as_json: bool) -> int:
    """Print what .ardm files hold, without decoding them.

    FILE is an .ardm file, or - for stdin. The file's own checksum is compared; the pixels are not (ardmzip test does
    that). Header bytes are all that are neither side information nor stream.
    """
    batch = common.Batch(continue_on_error=continue_on_error, quiet=True)
    return run_jobs(input_jobs(files), partial(_info, as_json=as_json, max_pixels=max_pixels), batch)


def _info(job: Job, as_json: bool, max_pixels: int) -> None:
    values = describe_file(job.label if job.source else STREAM, job.read(), max_pixels)
    if as_json:
        common.print_json(values)
    else:
        common.print_out("\n".join(_lines(values)))


def describe_file(label: str, data: bytes, max_pixels: int = MAX_PIXELS) -> dict[str, Any]:
    """Everything ``info`` prints, by its JSON key."""
    from ardmzip.container import unpack

    c = unpack(data, max_pixels)
    stream = sum(words.nbytes for words in c.segments)
    name = common.model_name(c.model_id)
    return {
        "input": label,
        "bytes": len(data),
        "width": c.width,
        "height": c.height,
        "channels": c.channels,
        "raw_bytes": c.width * c.height * c.channels,
        "bits_per_subpixel": round(8 * len(data) / (c.width * c.height * c.channels), 6),
        "version": data[4],
        "model": None if name == c.model_id.hex() else name,
        "model_id": c.model_id.hex(),
        "phase": list(c.phase),
        "levels": c.order.levels,
        "calls": c.network_calls,
        "learning": c.learning,
        "batches": None if c.batch_ends is None else len(c.batch_ends),
        "header_bytes": len(data) - stream - len(c.side_info),
        "side_info_bytes": len(c.side_info),
        "stream_bytes": stream,
        "streams": len(c.segments),
        "pixel_crc32": f"{c.pixel_crc:08x}",
        "file_crc32": f"{int.from_bytes(data[-4:], 'little'):08x}",
    }


def _lines(v: dict[str, Any]) -> list[str]:
    streams = "1 stream" if v["streams"] == 1 else f"{v['streams']} streams"
    rows = {
        "image": f"{v['width']} x {v['height']} {common.kind(v['channels'])}, {v['raw_bytes']} bytes raw",
        "file": f"{v['bytes']} bytes, {v['bits_per_subpixel']:.3f} bits per sub-pixel, format version {v['version']}",
        "parts": f"{v['header_bytes']} bytes header, {v['side_info_bytes']} side information, "
        f"{v['stream_bytes']} in {streams}",
        "model": f"{v['model'] or 'not installed'} ({v['model_id']})",
        "coding": f"{v['calls']} network calls, {v['levels']} levels, phase {v['phase'][0]} {v['phase'][1]}, "
        f"{common.head(v['learning'], v['batches'])}",
        "checksums": f"pixels {v['pixel_crc32']}, file {v['file_crc32']}",
    }
    return [common.plain(v["input"]), *(f"  {name:<10} {text}" for name, text in rows.items())]
