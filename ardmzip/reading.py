"""Image files -> pictures, with all their bits: also where Pillow would reduce them to 8."""

from __future__ import annotations

import io
import logging
import threading
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
from PIL import Image

from ardmzip import formats, metadata, pngfile, tags
from ardmzip.container import MAX_PIXELS, is_ardm
from ardmzip.errors import ImageError
from ardmzip.formats import Picture, image_errors

# how the files of some formats begin
_JPEG, _TIFF = b"\xff\xd8\xff", (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_NETPBM = tuple(b"P%d" % number for number in range(1, 7))
_UNSPECIFIED, _ASSOCIATED_ALPHA = 0, 1  # extra samples
_COLOUR_MAP = 320
_JPEG_IN_TIFF = (6, 7, 34892)  # kinds of compression


def read(file: bytes, force_jpeg: bool = False, max_pixels: int = MAX_PIXELS) -> Picture:
    """The picture of an image file; raises ImageError with one clear line for what cannot be stored.

    max_pixels: an image of more is refused before they are read.
    """
    if is_ardm(file):
        raise ImageError("this is an .ardm file already")
    if file.startswith(_JPEG) and not force_jpeg:
        raise ImageError(
            "JPEG files are lossy-compressed already, and their pixels stored without loss take more room than the "
            "JPEG (--force-jpeg does it all the same)"
        )
    with _limit(max_pixels), warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # large images are welcome
        warnings.simplefilter("ignore", UserWarning)  # of damage, which ends in an error or leaves the pixels alone
        if file.startswith(pngfile.SIGNATURE):
            return _png(file)
        if file.startswith(_TIFF):
            return _tiff(file, max_pixels)
        if file.startswith(_NETPBM):
            return _netpbm(file)
        return replace(_pillow(file), lossy=file.startswith(_JPEG) or _is_lossy_webp(file))


def _is_lossy_webp(file: bytes) -> bool:
    """Whether a file is a WebP file whose colours are coded with loss."""
    at = 12
    while file[:4] == b"RIFF" and file[8:12] == b"WEBP" and at < len(file):
        if file[at : at + 4] == b"VP8 ":
            return True
        length = int.from_bytes(file[at + 4 : at + 8], "little")
        at += 8 + length + length % 2
    return False


_limit_lock = threading.Lock()


@contextmanager
def _limit(pixels: int) -> Iterator[None]:
    """Our limit instead of Pillow's, which is lower and the same for all threads."""
    with _limit_lock:
        usual = Image.MAX_IMAGE_PIXELS
        Image.MAX_IMAGE_PIXELS = pixels / 2  # type: ignore[assignment]  # it allows twice that
        try:
            yield
        except ImageError as error:
            if isinstance(error.__cause__, Image.DecompressionBombError):
                raise _too_large(pixels) from error
            raise
        finally:
            Image.MAX_IMAGE_PIXELS = usual


def _too_large(limit: int) -> ImageError:
    return ImageError(f"the image is over the limit of {limit} pixels (--max-pixels)")


def _pillow(file: bytes) -> Picture:
    with image_errors(), Image.open(io.BytesIO(file)) as image:
        return formats.from_image(image)


@contextmanager
def _opened(file: bytes) -> Iterator[Any]:
    """A single image, not loaded yet."""
    with image_errors(), Image.open(io.BytesIO(file)) as image:
        if getattr(image, "n_frames", 1) > 1:
            raise ImageError("images with several frames or pages are not supported")
        yield image


def _png(file: bytes) -> Picture:
    chunks = pngfile.chunks(file)
    head = pngfile.header(chunks)
    found: dict[bytes, bytes] = {}
    for chunk in chunks:
        found.setdefault(chunk.kind, chunk.data)
    with _opened(file) as image:
        if head.depth == 16:
            samples = _png16(chunks, head)
        else:
            image.load()
            samples = np.asarray(image).astype(np.uint8)
            if head.depth in (2, 4) and head.layout == "gray":
                samples //= 255 // ((1 << head.depth) - 1)
    samples = samples.reshape(head.height, head.width, -1)
    palette, transparency = b"", found.get(b"tRNS", b"")
    numbers = tuple(transparency)
    if head.layout == "palette":
        palette = found.get(b"PLTE", b"")
    else:
        # of the 16 bits of each number the lowest count
        mask = (1 << head.depth) - 1
        numbers = tuple(int.from_bytes(transparency[i : i + 2], "big") & mask for i in range(0, len(transparency), 2))
    kept, lost = metadata.of_png(chunks, head.layout)
    return Picture(
        samples,
        formats.described(head.layout, head.depth, palette, numbers),
        tuple(kept),
        tuple(metadata.titles(lost)),
    )


#: The passes of an interlaced PNG file: first row and column, and steps between rows and columns.
_ADAM7 = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))


def _png16(chunks: list[pngfile.Chunk], head: pngfile.Header) -> np.ndarray:
    """16-bit samples, without the other chunks, so that a transparent colour does not become an alpha channel.

    imagecodecs warns of interlaced files on stderr, so their passes are read as images of their own.
    """
    data = [chunk.data for chunk in chunks if chunk.kind == b"IDAT"]
    if not head.interlaced:
        return _decoded16(head, data)
    channels = {"gray": 1, "gray+alpha": 2, "RGB": 3, "RGB+alpha": 4}[head.layout]
    samples = np.zeros((head.height, head.width, channels), np.uint16)
    inflater, coded = zlib.decompressobj(), b"".join(data)
    for top, left, down, right in _ADAM7:
        part = samples[top::down, left::right]
        if part.size:
            size = part.shape[0] * (1 + 2 * part.shape[1] * channels)
            try:
                rows = inflater.decompress(inflater.unconsumed_tail or coded, size)
            except zlib.error as error:
                raise ImageError(f"damaged image: {error}") from error
            coded = b""
            small = replace(head, height=part.shape[0], width=part.shape[1], interlaced=False)
            part[:] = _decoded16(small, [zlib.compress(rows, 1)]).reshape(part.shape)
    return samples


def _decoded16(head: pngfile.Header, data: list[bytes]) -> np.ndarray:
    import imagecodecs

    parts = [head.chunk(), *(pngfile.Chunk(b"IDAT", part) for part in data), pngfile.Chunk(b"IEND", b"")]
    try:
        return np.asarray(imagecodecs.png_decode(pngfile.build(parts)), np.uint16)
    except (imagecodecs.PngError, ValueError) as error:
        raise ImageError(f"damaged image: {error}") from error


def _tiff(file: bytes, max_pixels: int) -> Picture:
    import tifffile

    logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # what it warns of is refused here, in one line
    with _library_errors(), tifffile.TiffFile(io.BytesIO(file)) as tiff:
        pages = len(tiff.pages)
        if not pages:
            raise ImageError("damaged image: the TIFF file is truncated")
        page = tiff.pages[0]
        assert isinstance(page, tifffile.TiffPage)
        size = page.imagewidth * page.imagelength
        extra = tuple(int(kind) for kind in page.extrasamples)
        bits = page.bitspersample
        deep = bits == 16 and page.sampleformat == tifffile.SAMPLEFORMAT.UINT
        lossy = int(page.compression) in _JPEG_IN_TIFF
        colour_map = page.tags.get(_COLOUR_MAP)
        colours = None if colour_map is None else np.asarray(colour_map.value)
    if size > max_pixels:
        raise _too_large(max_pixels)
    if pages > 1:
        raise ImageError("images with several frames or pages are not supported")
    if _ASSOCIATED_ALPHA in extra:
        raise ImageError("TIFF files with premultiplied alpha are not supported")
    if len(extra) > 1:
        raise ImageError("TIFF files with several samples beside the colours are not supported")
    if colours is not None and not (np.all(colours % 257 == 0) or np.all(colours % 256 == 0)):
        raise ImageError("palettes of more than 8 bits are not supported")
    # Pillow drops samples of no known meaning
    picture = _tiff_samples(file) if deep or _UNSPECIFIED in extra else _with_depth(_unturned(file), bits)
    kept, lost = metadata.of_tiff(file)
    return replace(picture, metadata=tuple(kept), lost=tuple(lost), lossy=lossy)


def _unturned(file: bytes) -> Picture:
    """The pixels of a TIFF file as they are stored: Pillow turns them upright."""
    with image_errors(), Image.open(io.BytesIO(file)) as image:
        orientation = image.getexif().get(tags.ORIENTATION)
        picture = formats.from_image(image, ())
    samples = picture.samples
    stored = {
        2: samples[:, ::-1], 3: samples[::-1, ::-1], 4: samples[::-1], 5: samples.swapaxes(0, 1), 6: np.rot90(samples),
        7: samples[::-1, ::-1].swapaxes(0, 1), 8: np.rot90(samples, -1),
    }.get(orientation, samples)  # fmt: skip
    return replace(picture, samples=np.ascontiguousarray(stored))


def _with_depth(picture: Picture, bits: int) -> Picture:
    """A picture that Pillow has spread to 8 bits, with the bits of the file."""
    described, samples = picture.format, picture.samples
    if bits not in (1, 2, 4) or described.depth != 8 or described.layout not in ("gray", "palette"):
        return picture
    if described.layout == "gray":
        samples = samples // (255 // ((1 << bits) - 1))
    return replace(picture, samples=samples, format=replace(described, depth=bits))


def _tiff_samples(file: bytes) -> Picture:
    """Samples as they are, of 8 or 16 bits, where Pillow would drop some."""
    import tifffile

    with _library_errors(), tifffile.TiffFile(io.BytesIO(file)) as tiff:
        page = tiff.pages[0]
        assert isinstance(page, tifffile.TiffPage)
        kind = tifffile.PHOTOMETRIC(page.photometric)
        colours = {tifffile.PHOTOMETRIC.MINISBLACK: 1, tifffile.PHOTOMETRIC.RGB: 3}.get(kind)
        extra = tuple(int(sample) for sample in page.extrasamples)
        padded = _UNSPECIFIED in extra
        if colours is None or page.imagedepth != 1 or page.bitspersample not in (8, 16) or (padded and colours == 1):
            raise ImageError(f"TIFF files of kind {kind.name} with such samples are not supported")
        if page.samplesperpixel != colours + len(extra):
            raise ImageError(f"a TIFF file of kind {kind.name} with {page.samplesperpixel} samples a pixel")
        width, height = page.imagewidth, page.imagelength
        samples = np.asarray(page.asarray())
        planar = page.planarconfig == tifffile.PLANARCONFIG.SEPARATE and page.samplesperpixel > 1
        depth = int(page.bitspersample)
    channels = colours + len(extra)
    samples = samples.transpose(1, 2, 0) if planar else samples.reshape(height, width, channels)
    layout = {1: "gray", 2: "gray+alpha", 3: "RGB", 4: "RGB+padding" if padded else "RGB+alpha"}[channels]
    samples = np.ascontiguousarray(samples, np.uint16 if depth == 16 else np.uint8)
    return Picture(samples, formats.described(layout, depth))


@contextmanager
def _library_errors() -> Iterator[None]:
    """What tifffile and netpbmfile raise for a damaged file, which may be anything, becomes ImageError."""
    try:
        yield
    except (MemoryError, ImageError):
        raise
    except Exception as error:
        raise ImageError(f"damaged image: {' '.join(str(error).split())}") from error


def _netpbm(file: bytes) -> Picture:
    import netpbmfile

    with _opened(file) as image:
        decoder, _, start, arguments = image.tile[0]
        # (raw mode, maximum), or a raw mode that tells the maximum
        greatest = arguments[1] if isinstance(arguments, tuple) else 65535 if "16" in arguments else 255
        if decoder != "ppm_plain":
            row = (image.width + 7) // 8 if image.mode == "1" else image.width * (1 if image.mode in "LI" else 3)
            end = start + image.height * row * (2 if greatest > 255 else 1)
            if file[end:].lstrip().startswith(_NETPBM):
                raise ImageError("images with several frames or pages are not supported")
        if greatest == 255 or image.mode == "1":
            return formats.from_image(image)
    if greatest != 65535:
        raise ImageError(f"PNM files with a maximum of {greatest} are not supported, only 255 and 65535")
    with _library_errors():
        samples = np.asarray(netpbmfile.NetpbmFile(io.BytesIO(file)).asarray())
    return formats.from_array(samples.astype(np.uint16))
