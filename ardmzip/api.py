"""The library: ``compress``, ``decompress`` and ``decompress_array``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ardmzip.container import MAX_PIXELS, NO_MODEL, Container, pack, unpack
from ardmzip.errors import ArdmError, FormatError, ImageError, ModelError, OptionError

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

    from ardmzip.formats import Picture
    from ardmzip.learning import Gain
    from ardmzip.model import Model
    from ardmzip.network import Backend

#: Let the encoder choose the coder, and the model that suits the image.
AUTO = "auto"


def compress(
    image: Image.Image | np.ndarray | str | Path | Picture,
    *,
    model: str | Path = AUTO,
    steps: int | None = None,
    learn: bool = True,
    batches: int | None = None,
    device: str = "auto",
    backend: str = "auto",
    strip: bool = False,
    verify: bool = True,
    progress: Callable[[float], None] | None = None,
    gains: list[Gain] | None = None,
) -> bytes:
    """Compress an image without loss.

    Args:
        image: a PIL image, with its metadata; an array uint8 or uint16 [height, width] or [height, width, 1 to 4]; or
            the name of an image file, which gives all 16 bits where Pillow would reduce them to 8.
        model: name of an installed model, or path of a model file; ``auto`` chooses the one by which a sample of the
            pixels is smallest, or a general coder such as lossless WebP where that is smaller.
        steps: budget of network calls; None takes as many as give the smallest file.
        learn: let the network's last layer learn from the image while coding it; False is faster. It is not used where
            it does not pay, which is found out for images of less than 2**18 sub-pixels and with ``steps`` or
            ``batches``.
        batches: most batches to plan for learning; None takes many, for the smallest file.
        device: ``auto``, ``cpu`` or ``cuda``; the bytes do not depend on it.
        backend: ``auto``, ``int8``, ``float32`` or ``float64`` arithmetic; the bytes do not depend on it.
        strip: leave out the metadata: EXIF data, colour profile, texts and the like.
        verify: decode the result and compare the pixels before returning it.
        progress: called with the fraction done, 0 to 1.
        gains: a list that takes what learning brings, a ``learning.Gain`` in bits for each batch; measuring it needs
            more time.

    Returns the bytes of a ``.ardm`` file (docs/FORMAT.md).

    Raises ImageError for images it cannot store, OptionError unless ``steps`` and ``batches`` are positive and the
    model can learn in planned batches, ModelError, BackendError, and ArdmError if verification fails.

    >>> import ardmzip, numpy
    >>> image = numpy.arange(300, dtype=numpy.uint8).reshape(10, 10, 3)
    >>> data = ardmzip.compress(image)
    >>> restored = ardmzip.decompress(data)
    >>> restored.mode, restored.size, bool((numpy.asarray(restored) == image).all())
    ('RGB', (10, 10), True)
    """
    import numpy as np

    from ardmzip import metadata
    from ardmzip import model as models
    from ardmzip.body import Encoder

    if steps is not None and steps < 1:
        raise OptionError(f"steps must be at least 1, not {steps}")
    if batches is not None and batches < 1:
        raise OptionError(f"batches must be at least 1, not {batches}")
    if batches is not None and not learn:
        raise OptionError("batches are for a head that learns, not for learn=False")
    picture = _picture(image)
    described = picture.format
    if picture.width * picture.height > MAX_PIXELS:
        size = f"{picture.width} x {picture.height}"
        raise ImageError(f"an image of {size} pixels is over the limit of {MAX_PIXELS} pixels")
    kept = metadata.pack(picture.metadata) if picture.metadata and not strip else None
    share = 0.5 if verify else 1.0
    # coding is not all of it: its share is full once the bytes are there
    report = None if progress is None else lambda done: progress(share * done) if done < 1 else None
    loaded = None if model == AUTO else models.load(model)
    encoder = Encoder(loaded, steps, learn, batches, device, backend, gains)
    forced = loaded is not None and described.layout != "palette" and described.depth >= 8
    body = encoder.encode(picture.samples, described.depth, report, forced)
    container = replace(
        body,
        model_id=encoder.loaded()[0].id if body.uses_model else NO_MODEL,
        format=None if described.is_plain else described,
        metadata=kept,
        pixel_crc=picture.checksum(),
    )
    data = pack(container)
    if progress:
        progress(share)
    if verify:
        report = None if progress is None else lambda done: progress(0.5 + 0.5 * done)
        try:
            same = np.array_equal(_samples(unpack(data), encoder.loaded, report), picture.samples)
        except FormatError:
            same = False
        if not same:
            raise ArdmError("verification failed: the compressed data does not decode to the image")
    if progress:
        progress(1.0)
    return data


def decompress(
    data: bytes,
    *,
    model: str | Path | None = None,
    device: str = "auto",
    backend: str = "auto",
    progress: Callable[[float], None] | None = None,
) -> Image.Image:
    """The image of a ``.ardm`` file, exactly as it was: its mode, palette and pixels, and its metadata in ``info``.

    ``data`` may have been made on any device and back end. ``model``: name or path of the model that made it, for one
    that is not installed; by default it is found by the id in the file.

    Raises ImageError for 16-bit images other than gray, for which Pillow has no mode (see decompress_array),
    FormatError for data that is damaged or not a ``.ardm`` file, ModelError when its model is not installed,
    BackendError. Wrong pixels are never returned: they are compared with the file's checksum.
    """
    from ardmzip import formats

    formats.require_mode(unpack(data).pixel_format)
    return formats.to_image(restore(data, model=model, device=device, backend=backend, progress=progress))


def decompress_array(
    data: bytes,
    *,
    model: str | Path | None = None,
    device: str = "auto",
    backend: str = "auto",
    progress: Callable[[float], None] | None = None,
) -> np.ndarray:
    """The samples of a ``.ardm`` file: uint8 or uint16 [height, width] or [height, width, 2 to 4].

    Samples of fewer than 8 bits are not scaled (0 to 3, for 2 bits), and palettes give the numbers of the colours. For
    the rest see decompress.

    >>> import ardmzip, numpy
    >>> deep = numpy.arange(12, dtype=numpy.uint16).reshape(2, 2, 3) * 5000
    >>> bool((ardmzip.decompress_array(ardmzip.compress(deep)) == deep).all())
    True
    """
    return restore(data, model=model, device=device, backend=backend, progress=progress).array()


def restore(
    data: bytes,
    *,
    model: str | Path | None = None,
    device: str = "auto",
    backend: str = "auto",
    progress: Callable[[float], None] | None = None,
) -> Picture:
    """The picture of a ``.ardm`` file; see decompress."""
    from ardmzip import metadata
    from ardmzip.formats import Picture

    container = unpack(data)

    def load() -> tuple[Model, Backend]:
        from ardmzip import model as models
        from ardmzip import network

        loaded = models.find(container.model_id) if model is None else models.load(model)
        if loaded.id != container.model_id:
            raise ModelError(f"the file needs model {container.model_id.hex()}, not {loaded.name} ({loaded.id.hex()})")
        return loaded, network.backend(device, backend)

    kept = () if container.metadata is None else tuple(metadata.unpack(container.metadata))
    return Picture(_samples(container, load, progress), container.pixel_format, kept)


def _picture(image: Image.Image | np.ndarray | str | Path | Picture) -> Picture:
    from PIL import Image

    from ardmzip import formats

    if isinstance(image, formats.Picture):
        return image
    if isinstance(image, Image.Image):
        return formats.from_image(image)
    if isinstance(image, str | Path):
        from ardmzip import reading

        return reading.read(Path(image).read_bytes())
    return formats.from_array(image)


def _samples(
    container: Container, load: Callable[[], tuple[Model, Backend]], progress: Callable[[float], None] | None
) -> np.ndarray:
    """The samples of a container, compared with its checksum."""
    from ardmzip.body import Decoder
    from ardmzip.formats import Picture

    described = container.pixel_format
    samples = Decoder(load).decode(container, described.extra, described.depth, progress)
    if Picture(samples, described).checksum() != container.pixel_crc:
        raise FormatError("the decoded pixels do not match the file's checksum")
    return samples
