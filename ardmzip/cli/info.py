"""``ardmzip info``: what the container says; imports neither torch nor numba, unless a map is wanted."""

from __future__ import annotations

import io
import zlib
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ardmzip.cli import _common as common
from ardmzip.cli._archives import describe_archive, is_archive, lines
from ardmzip.cli._jobs import STREAM, Job, input_jobs, run_jobs
from ardmzip.cli._progress import Bar
from ardmzip.container import MAX_PIXELS
from ardmzip.errors import ArdmError
from ardmzip.files import check_target, write_atomic

if TYPE_CHECKING:
    from ardmzip.container import Container


@click.command(
    epilog="""\b
Examples:
  ardmzip info img.ardm
  ardmzip info photos.ardmz                      counts, sizes, models and labels of an archive
  ardmzip info --json archive/*.ardm | jq .bits_per_subpixel
  ardmzip info --heatmap map.png img.ardm        draws where the bits went"""
)
@common.files_argument
@common.continue_option
@common.max_pixels_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object for each file.")
@click.option(
    "--heatmap", metavar="OUT.png", type=common.path_type,
    help="Also decode the FILE, and draw how many bits each of its pixels takes: none is black, over red and yellow, "
    "most is white.",
)  # fmt: skip
@click.option("-f", "--force", is_flag=True, help="Overwrite an existing OUT.png.")
def info(
    files: tuple[str, ...], continue_on_error: bool, max_pixels: int, as_json: bool, heatmap: str | None, force: bool
) -> int:
    """Print what .ardm files and .ardmz archives hold, without decoding them.

    FILE is an .ardm file or an archive, or - for stdin. The file's own checksum is compared; the pixels are not
    (ardmzip test does that), nor what is one with them: files of small images have one checksum for both. Header bytes
    are all that are neither metadata, side information, changes of the model, stream nor stored samples.
    """
    target = None if heatmap is None else Path(heatmap)
    if target is not None and len(files) > 1:
        raise click.UsageError("--heatmap draws one FILE")
    if target is not None and target.suffix.lower() != ".png":
        raise click.UsageError(f"{common.plain(heatmap)}: a map is a .png file")
    if target is None and force:
        raise click.UsageError("-f is for --heatmap: nothing else is written")
    batch = common.Batch(continue_on_error=continue_on_error, quiet=True, as_json=as_json)
    work = partial(_info, as_json=as_json, max_pixels=max_pixels, heatmap=target, force=force)
    return run_jobs(input_jobs(files), work, batch)


def _info(job: Job, as_json: bool, max_pixels: int, heatmap: Path | None, force: bool) -> None:
    if job.source is not None and is_archive(job.source):
        if heatmap is not None:
            raise ArdmError("--heatmap draws a single image: ardmzip extract it first")
        described = describe_archive(job.label, job.source)
        if as_json:
            common.print_json(described)
        else:
            common.print_out("\n".join(lines(described)))
        return
    if heatmap is not None:
        check_target(heatmap, force)
    data = job.read()
    values = describe_file(job.label if job.source else STREAM, data, max_pixels)
    if heatmap is not None:
        _draw(job.label, data, max_pixels, heatmap, force)
    if as_json:
        common.print_json(values)
    else:
        common.print_out("\n".join([common.plain(job.label), *_lines(values)]))


def _draw(label: str, data: bytes, max_pixels: int, target: Path, force: bool) -> None:
    from ardmzip import heatmap, model, network
    from ardmzip.container import unpack

    c = unpack(data, max_pixels)
    with Bar(label, quiet=False) as bar:
        bits = heatmap.bits(c, lambda: (model.find(c.model_id), network.backend()), bar)
    image, most = heatmap.draw(bits)
    png = io.BytesIO()
    image.save(png, "PNG")
    write_atomic(target, png.getvalue(), force)
    click.echo(common.plain(f"{label} -> {target}  black: no bits, white: {most:.2f} bits a pixel or more"), err=True)


def describe_file(label: str, data: bytes, max_pixels: int = MAX_PIXELS) -> dict[str, Any]:
    """Everything ``info`` prints, by its JSON key."""
    from ardmzip import metadata
    from ardmzip.container import VERSION, is_short, unpack

    c = unpack(data, max_pixels)
    parts = list(c.parts)
    words = b"".join(words.tobytes() for part in parts for words in part.segments)
    short = is_short(data)
    stream = len(words.rstrip(b"\0") if short else words)
    stored = sum(len(part.stored or b"") for part in parts)
    side = sum(len(part.side_info) for part in parts)
    chunks = [] if c.metadata is None else metadata.unpack(c.metadata)
    name = common.model_name(c.model_id)
    return {
        "input": label,
        "bytes": len(data),
        **common.content(c, len(data)),
        "kind": c.pixel_format.title,
        "palette": len(c.pixel_format.palette) // 3,
        "transparency": bool(c.pixel_format.transparency),
        "metadata": metadata.titles(chunks),
        "version": VERSION,
        "model": None if name == c.model_id.hex() else name,
        "model_id": c.model_id.hex(),
        "random_order": common.random_order(c) or None,
        "phase": list(c.phase),
        "code": any(part.code for part in parts),
        "turned": any(part.turned for part in parts),
        "levels": max(part.order.levels for part in parts),
        "tile": None if c.tile is None else [c.tile[1], c.tile[0]],
        "tiles": len(c.tiles),
        "preview_levels": _preview_levels(c),
        "batches": None if c.batch_ends is None else len(c.batch_ends),
        "header_bytes": len(data) - stream - stored - side - len(c.metadata or b"") - len(c.changes or b""),
        "metadata_bytes": len(c.metadata or b""),
        "side_info_bytes": side,
        "changes_bytes": len(c.changes or b""),
        "changes_save_bytes": c.saved,
        "stream_bytes": stream,
        "streams": sum(len(part.segments) for part in parts),
        "stored_bytes": stored,
        # a short file has one for both, which nothing but decoding compares
        "pixel_crc32": None if short else f"{c.pixel_crc:08x}",
        "file_crc32": None if short else f"{zlib.crc32(data[:-4]):08x}",
    }


def _preview_levels(c: Container) -> list[int]:
    """The levels that can be read alone: a preview needs the next finer one of these, or else the whole file."""
    bodies = [body for body in c.tiles or (c,) if body.stored is None]
    found = [{level + 1 for level in body.order.cuts} if body.level_crcs else set() for body in bodies]
    return sorted(set.intersection(*found)) if found else []


def _lines(v: dict[str, Any]) -> list[str]:
    streams = "1 stream" if v["streams"] == 1 else f"{v['streams']} streams"
    sizes = [f"{v['header_bytes']} bytes header"]
    sizes += [f"{v['metadata_bytes']} metadata"] if v["metadata"] else []
    sizes += [f"{v['side_info_bytes']} side information, {v['stream_bytes']} in {streams}"] if v["streams"] else []
    sizes += [f"{v['changes_bytes']} changes of the model"] if v["changes_bytes"] else []
    sizes += [f"{v['stored_bytes']} stored"] if v["stored_bytes"] else []
    rows = {
        "image": f"{v['width']} x {v['height']} {v['kind']}, {v['raw_bytes']} bytes raw",
        "file": f"{v['bytes']} bytes, {v['bits_per_subpixel']:.3f} bits per sub-pixel, format version {v['version']}",
        "parts": ", ".join(sizes),
        "metadata": ", ".join(v["metadata"]) or "none",
        "coded by": v["coding"],
    }
    if v["streams"]:
        rows["model"] = f"{v['model'] or 'not installed'} ({v['model_id']})"
        rows["coding"] = (
            f"{v['calls']} network calls, {v['random_order']}"
            if v["random_order"]
            else f"{v['calls']} network calls, {v['levels']} levels, phase {v['phase'][0]} {v['phase'][1]}, "
            f"{common.code_and_turn(v['code'], v['turned'])}{common.head(v['learning'], v['batches'])}"
        )
    if v["changes_bytes"]:
        rows["fitted"] = common.fitted(v["changes_bytes"], v["changes_save_bytes"])
    if v["tile"] is not None:
        rows["tiles"] = f"{v['tiles']} of {v['tile'][0]} x {v['tile'][1]} pixels or less"
    alone = v["preview_levels"]
    rows["previews"] = f"from level {alone[0]} on, of a part of the file" if alone else "need the whole file"
    if v["file_crc32"] is None:
        rows["checksum"] = "one for file and pixels, which ardmzip test compares"
    else:
        rows["checksums"] = f"pixels {v['pixel_crc32']}, file {v['file_crc32']}"
    return [f"  {name:<10} {common.plain(text)}" for name, text in rows.items()]
