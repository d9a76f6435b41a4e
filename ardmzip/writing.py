"""Pictures -> image files, complete in memory, so that a failure leaves nothing behind."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from PIL import Image

from ardmzip import formats, metadata, pngfile, tags
from ardmzip.errors import ImageError
from ardmzip.files import IMAGE_FORMATS
from ardmzip.formats import Picture
from ardmzip.pixelformat import PixelFormat
from ardmzip.pngfile import Chunk

#: Metadata that the formats other than PNG hold, as metadata.titles has it.
_HELD = {
    "TIFF": ("EXIF data", "colour profile", "XMP data", "resolution"),
    "WEBP": ("EXIF data", "colour profile", "XMP data"),
    "BMP": ("resolution",),
    "PPM": (),
}
_PNG_TRANSPARENCY_BYTES = 2


def write(picture: Picture, suffix: str) -> tuple[bytes, list[str]]:
    """(image file, what of the metadata it does not hold); raises ImageError if it cannot hold the pixels."""
    kind = IMAGE_FORMATS[suffix]
    if kind == "PNG":
        return _png(picture), []
    _check(picture, kind, suffix)
    writers: dict[str, Callable[[Picture], bytes]] = {"TIFF": _tiff, "WEBP": _webp, "BMP": _bmp, "PPM": _netpbm}
    try:
        file = writers[kind](picture)
    except (ValueError, OSError, OverflowError) as error:
        raise ImageError(f"cannot be written as {suffix}: {error}") from error
    lost = [title for title in metadata.titles(picture.metadata) if title not in _HELD[kind]]
    if kind == "TIFF":
        file, more = _with_tags(file, picture.metadata)
        lost += more
    return file, lost + _lost_depth(picture.format, kind)


def _lost_depth(described: PixelFormat, kind: str) -> list[str]:
    """Whether samples of few bits become 8, for people."""
    whole = described.depth == 1 and described.layout == "gray" and kind != "WEBP"
    if described.depth >= 8 or whole:
        return []
    bits = "1 bit" if described.depth == 1 else f"{described.depth} bits"
    return [f"samples of {bits} (they become 8)"]


def holds(file: bytes, picture: Picture) -> bool:
    """Whether an image file shows the same pixels; gray in a format without gray counts, and so does depth."""
    from ardmzip.reading import read

    return _seen(read(file, max_pixels=picture.width * picture.height)) == _seen(picture)


def _seen(picture: Picture) -> tuple[tuple[int, ...], int]:
    """Size, and a checksum of the pixels as 16-bit RGBA."""
    described, samples = picture.format, picture.samples
    if described.layout == "palette":
        colours = np.zeros((256, 4), np.uint16)
        palette = np.frombuffer(described.palette, np.uint8).reshape(-1, 3)
        colours[: len(palette), :3], colours[:, 3] = palette, 255
        colours[: len(described.transparency), 3] = described.transparency
        wide = colours[samples[:, :, 0]] * np.uint16(257)
    else:
        factor = np.uint16(65535 // ((1 << described.depth) - 1))
        wide = np.full((*samples.shape[:2], 4), 65535, np.uint16)
        wide[:, :, :3] = samples[:, :, : described.colours] * factor
        if described.extra:
            wide[:, :, 3] = samples[:, :, -1] * factor
        if described.transparency:
            hidden = (samples == np.array(described.transparency, samples.dtype)).all(axis=2)
            wide[:, :, 3][hidden] = 0
    return samples.shape[:2], zlib.crc32(wide)


def _check(picture: Picture, kind: str, suffix: str) -> None:
    """Raise ImageError for pixels that a format other than PNG cannot hold."""
    described = picture.format
    layouts = {
        "TIFF": ("gray", "gray+alpha", "RGB", "RGB+alpha", "RGB+padding", "palette"),
        "WEBP": ("gray", "gray+alpha", "RGB", "RGB+alpha"),
        "BMP": ("gray", "RGB", "palette"),
        "PPM": ("gray", "RGB"),
    }[kind]
    deepest = 16 if kind in ("TIFF", "PPM") else 8
    if described.layout not in layouts or described.depth > deepest or described.transparency:
        article = "a " if described.palette else ""
        raise ImageError(f"a {suffix} file cannot hold {article}{described.title}: use .png")
    if suffix == ".pgm" and described.layout != "gray":
        raise ImageError("a .pgm file holds gray only, and this image is RGB: use .ppm")
    if suffix in (".pgm", ".ppm") and described.depth == 1:
        raise ImageError(f"a {suffix} file cannot hold {described.title}: use .pbm or .png")
    if suffix == ".pbm" and described.depth > 1:
        raise ImageError(f"a .pbm file cannot hold {described.title}: use .pnm or .png")


def _png(picture: Picture) -> bytes:
    described = picture.format
    if described.layout == "RGB+padding":
        raise ImageError("a .png file cannot hold padding samples: use .tif")
    extra: list[Chunk] = []
    if described.palette:
        extra.append(Chunk(b"PLTE", described.palette))
    if described.transparency:
        numbers = described.transparency
        size = 1 if described.palette else _PNG_TRANSPARENCY_BYTES
        extra.append(Chunk(b"tRNS", b"".join(number.to_bytes(size, "big") for number in numbers)))
    main = pngfile.encode(picture.samples, described.depth, described.layout)
    suggested = described.layout.startswith("RGB")
    others = [chunk for chunk in picture.metadata if chunk.kind != b"PLTE" or suggested]
    return pngfile.with_ancillary(main, extra, others)


def _saved(picture: Picture, kind: str, **options: Any) -> bytes:
    """With Pillow."""
    image = formats.to_image(picture)
    if kind == "WEBP" and image.mode in ("1", "L", "LA"):
        image = image.convert("RGBA" if image.mode == "LA" else "RGB")
    image.info = {}
    buffer = io.BytesIO()
    image.save(buffer, kind, **{key: value for key, value in options.items() if value})
    return buffer.getvalue()


def _webp(picture: Picture) -> bytes:
    info = metadata.to_info(picture.metadata)
    return _saved(
        picture, "WEBP", lossless=True, exact=True, icc_profile=info.get("icc_profile"), exif=info.get("exif"),
        xmp=_xmp(info),
    )  # fmt: skip


def _xmp(info: dict[Any, Any]) -> bytes | None:
    found = info.get("xmp") or info.get("XML:com.adobe.xmp")
    return found.encode() if isinstance(found, str) else found


def _bmp(picture: Picture) -> bytes:
    return _saved(picture, "BMP", dpi=metadata.to_info(picture.metadata).get("dpi"))


def _netpbm(picture: Picture) -> bytes:
    if picture.format.depth < 16:
        return _saved(picture, "PPM")
    import netpbmfile

    buffer = io.BytesIO()
    netpbmfile.imwrite(buffer, picture.array(), maxval=65535)
    return buffer.getvalue()


def _tiff(picture: Picture) -> bytes:
    info = metadata.to_info(picture.metadata)
    dpi = _tiff_dpi(info)
    xmp = _xmp(info)
    if picture.format.depth < 16:
        exif = Image.Exif()
        if xmp:
            exif[tags.XMP] = xmp
        return _saved(picture, "TIFF", icc_profile=info.get("icc_profile"), exif=exif if xmp else None, dpi=dpi)
    import tifffile

    buffer = io.BytesIO()
    tifffile.imwrite(
        buffer,
        picture.array(),
        photometric="rgb" if picture.format.colours == 3 else "minisblack",
        planarconfig="contig" if picture.format.channels > 1 else None,
        extrasamples=["unspecified" if picture.format.layout == "RGB+padding" else "unassalpha"]
        if picture.format.extra
        else None,
        compression="zlib",
        predictor=True,
        metadata=None,
        software=False,
        iccprofile=info.get("icc_profile"),
        resolution=dpi,
        resolutionunit="inch" if dpi else None,
        extratags=[(tags.XMP, 1, len(xmp), xmp, True)] if xmp else (),
    )
    return buffer.getvalue()


def _with_tags(file: bytes, chunks: Sequence[Chunk]) -> tuple[bytes, list[str]]:
    """(a TIFF file with the tags of its EXIF data, which of them it does not hold)."""
    block = next((chunk.data for chunk in chunks if chunk.kind == b"eXIf"), None)
    if block is None:
        return file, []
    try:
        found = tags.parse(block.removeprefix(b"Exif\0\0"), tags.STRUCTURE)
        left_out = {tags.ICC}
        if any(map(metadata.is_xmp, chunks)):
            left_out.add(tags.XMP)
        if not _same_resolution(found, chunks):
            left_out |= {*tags.RESOLUTION}
        kept = {number: tag for number, tag in found.tags.items() if number not in left_out}
        file = tags.added(file, replace(found, tags=kept))
    except (ImageError, ValueError, struct.error):  # a damaged block, or a file of 4 GB
        return file, ["EXIF data"]
    return file, [f"EXIF tag {number}" for number in found.lost] + ["EXIF thumbnail"] * found.more


def _same_resolution(found: tags.Directory, chunks: Sequence[Chunk]) -> bool:
    """Whether the tags tell the resolution that a pHYs chunk tells in whole pixels a metre, if there is one."""
    dots, told = tags.dots_per_inch(found), [chunk.data for chunk in chunks if chunk.kind == b"pHYs"]
    if not told or told[0][8:] != b"\1":
        return True
    return dots is not None and struct.pack(">LL", *(int(number / 0.0254 + 0.5) for number in dots)) == told[0][:8]


def _tiff_dpi(info: dict[Any, Any]) -> tuple[float, float] | None:
    """Pixels an inch, of which PNG counts those of a metre: what was a round number is one again."""
    found = info.get("dpi")
    return None if not found else (round(found[0], 2), round(found[1], 2))
