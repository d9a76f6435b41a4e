"""The library: ``compress`` and ``decompress``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ardmzip.container import MAX_PIXELS, pack, unpack
from ardmzip.errors import ArdmError, ModelError, OptionError

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

    from ardmzip.learning import Gain

#: Let the encoder choose the model that suits the image.
AUTO = "auto"


#: Images of fewer sub-pixels are coded without learning if it does not pay. Larger ones have so much to learn that
#: finding out is not worth the time.
TRIAL = 1 << 18


def compress(
    image: Image.Image | np.ndarray,
    *,
    model: str | Path = AUTO,
    steps: int | None = None,
    learn: bool = True,
    batches: int | None = None,
    device: str = "auto",
    backend: str = "auto",
    verify: bool = True,
    progress: Callable[[float], None] | None = None,
    gains: list[Gain] | None = None,
) -> bytes:
    """Compress an image without loss.

    Args:
        image: a PIL image of mode RGB or L, or a uint8 array [height, width] or [height, width, 3].
        model: name of an installed model, or path of a model file; ``auto`` chooses the one by which a sample of the
            pixels is smallest.
        steps: budget of network calls; None takes as many as give the smallest file.
        learn: let the network's last layer learn from the image while coding it; False is faster. It is not used where
            it does not pay, which is found out for images of less than 2**18 sub-pixels and with ``steps`` or
            ``batches``.
        batches: most batches to plan for learning; None takes many, for the smallest file.
        device: ``auto``, ``cpu`` or ``cuda``; the bytes do not depend on it.
        backend: ``auto``, ``int8``, ``float32`` or ``float64`` arithmetic; the bytes do not depend on it.
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

    from ardmzip import choice, codec, network
    from ardmzip import image as images
    from ardmzip import model as models

    if steps is not None and steps < 1:
        raise OptionError(f"steps must be at least 1, not {steps}")
    if batches is not None and batches < 1:
        raise OptionError(f"batches must be at least 1, not {batches}")
    planes = images.to_planes(image)
    known = choice.candidates() if model == AUTO else [models.load(model)]
    chosen = network.backend(device, backend)
    loaded = choice.best_model(planes, known, chosen)
    share = 0.5 if verify else 1.0
    # the walk is not all of it: its share is full once the bytes are there
    report = None if progress is None else lambda done: progress(share * done) if done < 1 else None
    doubtful = planes.size < TRIAL or steps is not None or batches is not None
    found: list[Gain] | None = [] if doubtful or gains is not None else None
    container = codec.encode(planes, loaded, chosen, steps, report, learn=learn, batches=batches, gains=found)
    data = pack(container)
    if doubtful and found:
        planned = len(data) - len(pack(replace(container, batch_ends=None)))
        if 8 * planned + sum(gain.learned - gain.frozen for gain in found) > 0:
            data, found = pack(codec.encode(planes, loaded, chosen, steps, learn=False)), []
    if gains is not None and found:
        gains.extend(found)
    if progress:
        progress(share)
    if verify:
        report = None if progress is None else lambda done: progress(0.5 + 0.5 * done)
        if not np.array_equal(codec.decode(unpack(data), loaded, chosen, report), planes):
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
    max_pixels: int = MAX_PIXELS,
) -> Image.Image:
    """The image of a ``.ardm`` file, exactly as it was: PIL mode RGB or L.

    ``data`` may have been made on any device and back end. ``model``: name or path of the model that made it, for one
    that is not installed; by default it is found by the id in the file. ``max_pixels``: a file that claims to hold more
    is refused before memory is taken for them.

    Raises FormatError for data that is damaged or not a ``.ardm`` file, ModelError when its model is not installed,
    BackendError. Wrong pixels are never returned: they are compared with the file's checksum.
    """
    from ardmzip import codec, network
    from ardmzip import image as images
    from ardmzip import model as models

    container = unpack(data, max_pixels)
    loaded = models.find(container.model_id) if model is None else models.load(model)
    if loaded.id != container.model_id:
        raise ModelError(f"the file needs model {container.model_id.hex()}, not {loaded.name} ({loaded.id.hex()})")
    planes = codec.decode(container, loaded, network.backend(device, backend), progress)
    return images.from_planes(planes)
