"""The library: ``compress``, ``decompress`` and ``decompress_array``."""

from __future__ import annotations

import io
import operator
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from ardmzip import efforts
from ardmzip.container import MAX_PIXELS, Container, Part, pack, unpack
from ardmzip.errors import ArdmError, ImageError, ModelError, OptionError
from ardmzip.filebytes import AHEAD, Buffer, Source, source_of
from ardmzip.tiling import Rectangle

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

    from ardmzip.formats import Picture
    from ardmzip.learning import Gain
    from ardmzip.model import Model
    from ardmzip.network import Backend

#: Let the encoder choose the coder, the model that suits the image, and whether to cut it into tiles.
AUTO = "auto"
#: x, y, width and height of some pixels.
Region = tuple[int, int, int, int]
#: The bytes of a file, its name, or the file opened for reading bytes.
File = bytes | memoryview | str | os.PathLike[str] | BinaryIO


def compress(
    image: Image.Image | np.ndarray | str | os.PathLike[str] | Picture,
    *,
    model: str | Path = AUTO,
    steps: int | None = None,
    learn: bool | None = None,
    batches: int | None = None,
    effort: int | None = None,
    device: str = "auto",
    backend: str = "auto",
    tile: int | str | None = AUTO,
    strip: bool = False,
    verify: bool = True,
    progress: Callable[[float], None] | None = None,
    gains: list[Gain] | None = None,
    brought: Sequence[bytes] = (),
) -> bytes:
    """Compress an image without loss.

    Args:
        image: a PIL image, with its metadata; an array uint8 or uint16 [height, width] or [height, width, 1 to 4]; or
            the name of an image file, which gives all 16 bits where Pillow would reduce them to 8.
        model: name of an installed model, or path of a model file; ``auto`` chooses the one by which a sample of the
            pixels is smallest, or a general coder such as lossless WebP where that is smaller. From effort 1 on
            relatives of the chosen one are tried, too (docs/FITTING.md).
        steps: budget of network calls; None takes as many as give the smallest file, but 500 for a model that codes in
            a random order.
        learn: let the network's last layer learn from the image while coding it; False is faster; None does what the
            model says (Model.learn_by_default). It is not used where it does not pay, which is found out for images of
            less than 2**18 sub-pixels and with ``steps`` or ``batches``.
        batches: most batches to plan for learning; None takes many, for the smallest file.
        effort: how hard to try for a small file: 0, nothing is tried, to 9, the model is fitted to the image
            (docs/FITTING.md); None takes efforts.DEFAULT. Decoding takes as long as ever.
        device: ``auto``, ``cpu`` or ``cuda``; the bytes do not depend on it.
        backend: ``auto``, ``int8``, ``float32`` or ``float64`` arithmetic; the bytes do not depend on it.
        tile: side of the tiles that the image is cut into, in pixels; None codes it in one piece; ``auto`` does so up
            to 2**24 pixels, and takes tiles of about 2048 beyond. Tiles bound the memory, and a region of the image can
            be decoded alone; they make the file a little larger.
        strip: leave out the metadata: EXIF data, colour profile, texts and the like.
        verify: decode the result and compare the pixels before returning it.
        progress: called with the fraction done, 0 to 1.
        gains: a list that takes the code lengths of what the model codes, a ``learning.Gain`` in bits for each batch:
            where the bits are, and what learning brings. Measuring the latter needs more time.
        brought: differences of models that an archive brings with it (differences.py): a model that one begins with is
            replaced by that which comes out. The file can only be decoded with it.

    Returns the bytes of a ``.ardm`` file (docs/FORMAT.md).

    Raises ImageError for images it cannot store, OptionError unless ``steps`` and ``batches`` are positive and the
    model learns and can do so in planned batches, ModelError, BackendError, and ArdmError if verification fails.

    >>> import ardmzip, numpy
    >>> image = numpy.arange(300, dtype=numpy.uint8).reshape(10, 10, 3)
    >>> data = ardmzip.compress(image)
    >>> restored = ardmzip.decompress(data)
    >>> restored.mode, restored.size, bool((numpy.asarray(restored) == image).all())
    ('RGB', (10, 10), True)
    """
    from ardmzip import differences, metadata, raster, trials
    from ardmzip import model as models
    from ardmzip.body import Encoder

    if steps is not None and steps < 1:
        raise OptionError(f"steps must be at least 1, not {steps}")
    if batches is not None and batches < 1:
        raise OptionError(f"batches must be at least 1, not {batches}")
    if batches is not None and learn is False:
        raise OptionError("batches are for a head that learns, not for learn=False")
    if effort is not None and not 0 <= effort <= efforts.MOST:
        raise OptionError(f"effort must be 0 to {efforts.MOST}, not {effort}")
    picture = _picture(image)
    described = picture.format
    if picture.width * picture.height > MAX_PIXELS:
        size = f"{picture.width} x {picture.height}"
        raise ImageError(f"an image of {size} pixels is over the limit of {MAX_PIXELS} pixels")
    kept = metadata.pack(picture.metadata) if picture.metadata and not strip else None
    share = 0.5 if verify else 1.0
    # coding is not all of it: its share is full once the bytes are there
    report = None if progress is None else lambda done: progress(share * done) if done < 1 else None
    loaded = None if model == AUTO else differences.instead(models.load(model), brought)
    found: list[Gain] = []
    tried = efforts.EFFORTS[efforts.DEFAULT if effort is None else effort]
    encoder = Encoder(
        loaded, steps, learn, batches, device, backend, None if gains is None else found, search=tried.search,
        brought=tuple(brought),
    )  # fmt: skip
    forced = loaded is not None and described.layout != "palette" and described.depth >= 8
    cut = _tile(tile, picture.height, picture.width)
    coded = trials.encode(picture.samples, described, encoder, cut, tried, report, forced)
    data, coded_so = packed(coded, picture, kept)
    if not coded_so:
        found.clear()
    if gains is not None:
        gains.extend(found)
    if progress:
        progress(share)
    if verify:
        report = None if progress is None else lambda done: progress(0.5 + 0.5 * done)
        if not raster.holds(unpack(data), encoder.loaded, picture.samples, report):
            raise ArdmError("verification failed: the compressed data does not decode to the image")
    if progress:
        progress(1.0)
    return data


def packed(coded: Container, picture: Picture, kept: bytes | None) -> tuple[bytes, bool]:
    """The file of a coded picture, and whether it is coded so: not where it is smaller as it is.

    kept: the payload of its metadata (metadata.pack), None without any.
    """
    from ardmzip import raster

    described = picture.format
    kind = None if described.is_plain else described
    data = pack(replace(coded, format=kind, metadata=kept))
    if len(data) > described.raw_bytes(picture.width, picture.height):  # many tiles, or checksums of levels
        plain = pack(replace(raster.raw(picture.samples, described), format=kind, metadata=kept))
        if len(plain) < len(data):
            return plain, False
    return data, True


def decompress(
    data: File,
    *,
    model: str | Path | None = None,
    device: str = "auto",
    backend: str = "auto",
    level: int = 0,
    region: Region | None = None,
    progress: Callable[[float], None] | None = None,
    max_pixels: int = MAX_PIXELS,
) -> Image.Image:
    """The image of a ``.ardm`` file, exactly as it was: its mode, palette and pixels, and its metadata in ``info``.

    Args:
        data: the bytes of the file, which may have been made on any device and back end, or its name, or the file
            opened for reading bytes. Where a level or a region is asked for, only what is needed is read, and the rest
            may be missing, as of a download that is under way.
        model: name or path of the model that made it, for one that is not installed; by default it is found by the id
            in the file.
        device, backend: as for compress.
        level: decode only every 2**level-th row and column, counted from the lattice phase (container.phase): a
            preview. Less of the file is read and decoded then, if it was coded by a model.
        region: (x, y, width, height) of the pixels wanted; only their tiles are decoded.
        progress: called with the fraction done, 0 to 1.
        max_pixels: a file that claims to hold more is refused before memory is taken for them.

    Raises ImageError for 16-bit images other than gray, for which Pillow has no mode (see decompress_array);
    FormatError for data that is damaged or not a ``.ardm`` file, and CutOffError, which is one, where a level or a
    region needs more of the file than there is; ModelError when its model is not installed, BackendError, OptionError
    for a region outside the image and for arguments of another kind, OSError for a file that cannot be read. Wrong
    pixels are never returned: they are compared with the file's checksums.
    """
    from ardmzip import formats

    container = _unpacked(data, level, region, max_pixels)
    formats.require_mode(container.pixel_format)
    return formats.to_image(picture_of(container, model, device, backend, progress))


def decompress_array(
    data: File,
    *,
    model: str | Path | None = None,
    device: str = "auto",
    backend: str = "auto",
    level: int = 0,
    region: Region | None = None,
    progress: Callable[[float], None] | None = None,
    max_pixels: int = MAX_PIXELS,
) -> np.ndarray:
    """The samples of a ``.ardm`` file: uint8 or uint16 [height, width] or [height, width, 2 to 4].

    Samples of fewer than 8 bits are not scaled (0 to 3, for 2 bits), and palettes give the numbers of the colours. For
    the rest see decompress.

    >>> import ardmzip, numpy
    >>> deep = numpy.arange(12, dtype=numpy.uint16).reshape(2, 2, 3) * 5000
    >>> bool((ardmzip.decompress_array(ardmzip.compress(deep)) == deep).all())
    True
    """
    container = _unpacked(data, level, region, max_pixels)
    return picture_of(container, model, device, backend, progress).array()


def restore(
    data: File,
    *,
    model: str | Path | None = None,
    device: str = "auto",
    backend: str = "auto",
    level: int = 0,
    region: Region | None = None,
    progress: Callable[[float], None] | None = None,
    max_pixels: int = MAX_PIXELS,
    brought: Sequence[bytes] = (),
) -> Picture:
    """The picture of a ``.ardm`` file; see decompress, and for ``brought`` compress."""
    return picture_of(_unpacked(data, level, region, max_pixels), model, device, backend, progress, brought)


@contextmanager
def _opened(file: File) -> Iterator[Source]:
    """The bytes of a file that are given, or whose name is, or that are read from it."""
    if isinstance(file, str | os.PathLike):
        with open(file, "rb", buffering=AHEAD) as opened:
            yield source_of(opened)
        return
    with suppress(TypeError):
        file = memoryview(file)  # type: ignore[arg-type]
    if isinstance(file, bytes | memoryview):
        yield Buffer(file)
    elif isinstance(file, io.TextIOBase) or not hasattr(file, "read"):
        raise OptionError(f"give the bytes of an .ardm file, its name or a binary file, not {type(file).__name__}")
    else:
        yield source_of(file)


def _whole(name: str, value: int) -> int:
    try:
        return operator.index(value)
    except TypeError as error:
        raise OptionError(f"{name} must be a whole number, not {value!r}") from error


def _unpacked(file: File, level: int, region: Region | None, max_pixels: int) -> Container:
    """The container of a file, if it has the level or region that is wanted."""
    if _whole("level", level) < 0:
        raise OptionError(f"level must be at least 0, not {level}")
    if level and region is not None:
        raise OptionError("a level or a region, not both")
    wanted = None
    if region is not None:
        if not isinstance(region, Iterable) or len(tuple(region)) != 4:
            raise OptionError(f"a region is (x, y, width, height), not {region!r}")
        x, y, width, height = (_whole("each number of a region", number) for number in region)
        wanted = Rectangle(y, x, height, width)
    with _opened(file) as source:
        return unpack(source, max_pixels, Part(_whole("level", level), region=wanted))


def picture_of(
    container: Container, model: str | Path | None, device: str, backend: str, progress: Callable[[float], None] | None,
    brought: Sequence[bytes] = (),
) -> Picture:  # fmt: skip
    """The picture of a file that is unpacked, or of the part of it that is; see restore."""
    from ardmzip import metadata, raster
    from ardmzip.formats import Picture

    def load() -> tuple[Model, Backend]:
        from ardmzip import network

        return fitting_model(container.model_id, model, brought), network.backend(device, backend)

    kept = () if container.metadata is None else tuple(metadata.unpack(container.metadata))
    part = container.part
    samples = raster.decode(container, load, progress, part.level, part.region)
    return Picture(samples, container.pixel_format, kept)


def fitting_model(identity: bytes, name: str | Path | None, brought: Sequence[bytes] = ()) -> Model:
    """The model of a file, by its id; or the one that is named, if that is its id. Raises ModelError.

    brought: differences of models, one of which may give the model of this id; the one that is named is what it begins
    with then.
    """
    from ardmzip import differences
    from ardmzip import model as models

    found = differences.find(brought, identity, name)
    if found is not None:
        return found
    loaded = models.find(identity) if name is None else models.load(name)
    if not loaded.id.startswith(identity):
        raise ModelError(f"the file needs model {identity.hex()}, not {loaded.name} ({loaded.id.hex()})")
    return loaded


def _tile(tile: int | str | None, height: int, width: int) -> tuple[int, int] | None:
    from ardmzip import tiling

    if tile is None:
        return None
    if tile == AUTO:
        return tiling.default_tile(height, width)
    if not isinstance(tile, int) or tile < 1:
        raise OptionError(f"tile must be a positive number of pixels, None or {AUTO}, not {tile}")
    return tiling.tile_size(height, width, tile)


def _picture(image: Image.Image | np.ndarray | str | os.PathLike[str] | Picture) -> Picture:
    from PIL import Image

    from ardmzip import formats

    if isinstance(image, formats.Picture):
        return image
    if isinstance(image, Image.Image):
        return formats.from_image(image)
    if isinstance(image, str | os.PathLike):
        from ardmzip import reading

        return reading.read(Path(image).read_bytes())
    return formats.from_array(image)
