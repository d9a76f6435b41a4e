"""General coders for samples that the model does not suit: raw, Deflate, LZMA2 and lossless WebP (docs/FORMAT.md,
"Stored samples")."""

from __future__ import annotations

import io
import lzma
import zlib

import numpy as np

from ardmzip.errors import ArdmError, FormatError

RAW, DEFLATE, LZMA2, WEBP = range(4)
_CODERS = ("raw", "Deflate", "LZMA2", "WebP")
NONE, LEFT, UP, GRADIENT = range(4)
_FILTERS = ("", " of differences to the left", " of differences upwards", " of gradients")
_FILTER_SHIFT = 4
#: Most pixels a side of a WebP image.
WEBP_SIDE = 16383
#: Images of fewer samples are tried with every coder, as that takes no time.
_SMALL = 1 << 14
#: Side of the piece by which a filter is chosen for others.
_PIECE = 512
#: The dictionary of LZMA2 is as large as the data, within these bounds.
_DICTIONARY = 1 << 12, 1 << 26
_VP8L, _RIFF_HEAD = b"VP8L", 20

# samples: uint8 or uint16 [height, width, channels] throughout, each below 2 ** depth


def quick(samples: np.ndarray, depth: int) -> bytes:
    """A payload that is made at once, a bound for ``smallest``."""
    tried = [(DEFLATE, NONE)] if samples.size < _SMALL or not _webp_holds(samples, depth) else []
    return _best(samples, depth, tried, webp=(50, 1))


def smallest(samples: np.ndarray, depth: int) -> bytes:
    """The smallest payload that is found in some seconds a megapixel."""
    kinds = range(len(_FILTERS))
    if samples.size < _SMALL:
        return _best(samples, depth, [(coder, kind) for coder in (DEFLATE, LZMA2) for kind in kinds], webp=(100, 6))
    # a piece from the middle tells which filter suits
    top, left = (max(0, side - _PIECE) // 2 for side in samples.shape[:2])
    piece = samples[top : top + _PIECE, left : left + _PIECE]
    sizes = [len(zlib.compress(_packed(_differences(piece, depth, kind), depth), 1)) for kind in kinds]
    return _best(samples, depth, [(LZMA2, int(np.argmin(sizes)))], webp=(100, 6))


def raw(samples: np.ndarray, depth: int) -> bytes:
    """The payload of samples as they are."""
    return bytes([RAW]) + _packed(samples, depth)


def describe(payload: bytes | memoryview) -> str:
    """The coder of a payload, for people.

    >>> describe(bytes([LZMA2 | LEFT << _FILTER_SHIFT]))
    'LZMA2 of differences to the left'
    """
    coder, kind = _method(payload)
    return _CODERS[coder] + _FILTERS[kind]


def _best(samples: np.ndarray, depth: int, tried: list[tuple[int, int]], webp: tuple[int, int]) -> bytes:
    found = [raw(samples, depth)]
    data: dict[int, bytes] = {}
    for coder, kind in tried:
        if kind not in data:
            data[kind] = _packed(_differences(samples, depth, kind), depth)
        packed = press(coder, data[kind], alignment=samples.shape[2] if depth == 8 else 1)
        found.append(bytes([coder | kind << _FILTER_SHIFT]) + packed)
    if _webp_holds(samples, depth):
        found.append(bytes([WEBP]) + _encode_webp(samples, *webp))
    return min(found, key=len)


def decode(payload: bytes | memoryview, height: int, width: int, channels: int, depth: int) -> np.ndarray:
    """The samples of a payload; raises FormatError unless it is exactly right."""
    coder, kind = _method(payload)
    data = bytes(payload[1:])
    if coder == WEBP:
        if depth > 8:
            raise FormatError(f"WebP for samples of {depth} bits")
        samples = _decode_webp(data, height, width, channels)
    else:
        size = (height * width * channels * depth + 7) // 8
        samples = _unpacked(unpress(coder, data, size), height, width, channels, depth)
    if depth < 8 and int(samples.max()) >> depth:
        raise FormatError(f"a sample has more than {depth} bits")
    return _sums(samples, depth, kind)


def _method(payload: bytes | memoryview) -> tuple[int, int]:
    """Coder and filter."""
    if not len(payload):
        raise FormatError("empty stored samples")
    coder, kind = payload[0] & 15, payload[0] >> _FILTER_SHIFT
    if coder >= len(_CODERS) or kind >= len(_FILTERS) or (kind and coder in (RAW, WEBP)):
        raise FormatError(f"unknown coder 0x{payload[0]:02x} of stored samples: the file needs a newer ardmzip")
    return coder, kind


# Packing: depth bits a sample, without gaps; of 16-bit samples first all low bytes, then all high ones


def _packed(samples: np.ndarray, depth: int) -> bytes:
    if depth == 16:
        return np.stack([samples.ravel() & 255, samples.ravel() >> 8]).astype(np.uint8).tobytes()
    if depth == 8:
        return samples.astype(np.uint8).tobytes()
    bits = np.unpackbits(samples.astype(np.uint8).reshape(-1, 1), axis=1)[:, 8 - depth :]
    return np.packbits(bits).tobytes()


def _unpacked(data: bytes, height: int, width: int, channels: int, depth: int) -> np.ndarray:
    shape, count = (height, width, channels), height * width * channels
    array = np.frombuffer(data, np.uint8)
    if depth == 16:
        return (array[:count] | array[count:].astype(np.uint16) << np.uint16(8)).reshape(shape)
    if depth == 8:
        return array.reshape(shape)
    bits = np.unpackbits(array)
    if bits[count * depth :].any():
        raise FormatError("the bits after the last sample are not zero")
    wide = np.zeros((count, 8), np.uint8)
    wide[:, 8 - depth :] = bits[: count * depth].reshape(count, depth)
    return np.packbits(wide, axis=1).reshape(shape)


# Filters: differences to known samples, modulo 2 ** depth; what lies outside the image is 0


def _differences(samples: np.ndarray, depth: int, kind: int) -> np.ndarray:
    out = samples.copy()
    if kind in (LEFT, GRADIENT):
        out[:, 1:] -= samples[:, :-1]
    if kind == UP:
        out[1:] -= samples[:-1]
    if kind == GRADIENT:
        out[1:] -= out[:-1].copy()
    return out & out.dtype.type((1 << depth) - 1)


def _sums(differences: np.ndarray, depth: int, kind: int) -> np.ndarray:
    out, mask = differences, differences.dtype.type((1 << depth) - 1)
    if kind in (UP, GRADIENT):
        out = np.cumsum(out, axis=0, dtype=out.dtype) & mask
    if kind in (LEFT, GRADIENT):
        out = np.cumsum(out, axis=1, dtype=out.dtype) & mask
    return out


# Deflate and LZMA2


def press(coder: int, data: bytes, *, alignment: int = 1) -> bytes:
    """``data`` as a coder (not WebP) writes it. alignment: bytes of a pixel, 1 if there are no pixels."""
    if coder == RAW:
        return data
    if coder == DEFLATE:
        deflater = zlib.compressobj(9, zlib.DEFLATED, -15)
        return deflater.compress(data) + deflater.flush()
    # pixels of three bytes have no alignment that LZMA knows
    bits = {2: {"lc": 0, "lp": 1, "pb": 1}, 3: {"lc": 0, "lp": 0, "pb": 0}, 4: {"lc": 0, "lp": 2, "pb": 2}}
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 6, "dict_size": _dictionary(len(data)), **bits.get(alignment, {})}]
    return lzma.compress(data, lzma.FORMAT_RAW, filters=filters)


def _dictionary(size: int) -> int:
    low, high = _DICTIONARY
    return min(max(low, 1 << (size - 1).bit_length()), high)


def unpress(coder: int, data: bytes, size: int) -> bytes:
    """The ``size`` bytes behind some; makes no more than one byte beyond. Raises FormatError."""
    if coder == RAW:
        out, complete = data, True
    elif coder == DEFLATE:
        inflater = zlib.decompressobj(-15)
        try:
            out = inflater.decompress(data, size + 1)
        except zlib.error as error:
            raise FormatError(f"damaged Deflate data: {error}") from error
        complete = inflater.eof and not inflater.unused_data
    else:
        filters = [{"id": lzma.FILTER_LZMA2, "dict_size": _dictionary(size)}]
        decoder = lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=filters)
        try:
            out = decoder.decompress(data, size + 1)
            if not decoder.eof and len(out) == size:  # its end marker was not read yet
                out += decoder.decompress(b"", 1)
        except (lzma.LZMAError, EOFError) as error:
            raise FormatError(f"damaged LZMA2 data: {error}") from error
        complete = decoder.eof and not decoder.unused_data
    if len(out) != size or not complete:
        raise FormatError(f"damaged: {size} bytes were stored, and others are found")
    return out


# WebP: the bare VP8L bit stream; its RIFF header follows from the length


def _has_webp() -> bool:
    from PIL import features

    return bool(features.check("webp"))


def _webp_holds(samples: np.ndarray, depth: int) -> bool:
    return depth <= 8 and max(samples.shape[:2]) <= WEBP_SIDE and _has_webp()


def _encode_webp(samples: np.ndarray, quality: int, method: int) -> bytes:
    from PIL import Image

    pixels = samples.astype(np.uint8, copy=False)
    colours = pixels[:, :, : (pixels.shape[2] + 1) // 2 * 2 - 1]
    if colours.shape[2] == 1:
        colours = np.repeat(colours, 3, axis=2)  # costs nothing: WebP codes differences to green
    if pixels.shape[2] in (2, 4):
        colours = np.dstack([colours, pixels[:, :, -1]])
    buffer = io.BytesIO()
    image = Image.fromarray(np.ascontiguousarray(colours))
    image.save(buffer, "WEBP", lossless=True, exact=True, quality=quality, method=method)
    file = buffer.getvalue()
    if file[12:16] != _VP8L:
        raise ArdmError("this Pillow writes lossless WebP in an unknown form")
    return file[_RIFF_HEAD : _RIFF_HEAD + int.from_bytes(file[16:20], "little")]


def _decode_webp(stream: bytes, height: int, width: int, channels: int) -> np.ndarray:
    import imagecodecs  # Pillow would apply its limit of pixels, which is not ours

    head = int.from_bytes(stream[1:5], "little")
    if len(stream) < 5 or stream[0] != 0x2F or (head & 0x3FFF, head >> 14 & 0x3FFF) != (width - 1, height - 1):
        raise FormatError("damaged WebP data: not an image of the right size")
    body = b"WEBP" + _VP8L + len(stream).to_bytes(4, "little") + stream + bytes(len(stream) % 2)
    file = b"RIFF" + len(body).to_bytes(4, "little") + body
    try:
        pixels = imagecodecs.webp_decode(file, hasalpha=True)
    except (imagecodecs.WebpError, ValueError) as error:
        raise FormatError("damaged WebP data") from error
    if pixels.shape[:2] != (height, width):
        raise FormatError("damaged WebP data: not an image of the right size")
    wanted = {1: [1], 2: [1, 3], 3: [0, 1, 2], 4: [0, 1, 2, 3]}[channels]
    return np.ascontiguousarray(pixels[:, :, wanted])
