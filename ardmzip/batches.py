"""Many pictures to ``.ardm`` files and back: small ones of one size in lock-step, the others one after the other.

Every file is that of coding its picture alone. Tiny images are coded with frozen heads, as learning is of no use there,
unless it is asked for.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from ardmzip import api, differences, lockstep, metadata, model, network, raster
from ardmzip.body import Encoder
from ardmzip.container import MAX_PIXELS, Container, unpack
from ardmzip.errors import ArdmError, FormatError
from ardmzip.formats import Picture
from ardmzip.image import interleaved

T = TypeVar("T")

#: Images of so many pixels or fewer teach a head nothing: they are coded with frozen heads unless told otherwise.
TINY = 64 * 64


@dataclass(frozen=True)
class Options:
    """How pictures are coded, as in api.compress."""

    model: str | Path = api.AUTO
    steps: int | None = None
    learn: bool | None = None
    batches: int | None = None
    device: str = "auto"
    backend: str = "auto"
    tile: int | str | None = api.AUTO
    strip: bool = False
    verify: bool = True
    #: Differences of models that an archive brings with it, as in api.compress.
    brought: tuple[bytes, ...] = ()

    def learns(self, picture: Picture) -> bool | None:
        """``learn`` for a picture: None lets the model say."""
        if self.learn is None and self.batches is None and picture.height * picture.width <= TINY:
            return False
        return self.learn

    def compress(self, picture: Picture) -> bytes:
        """The file of a single picture."""
        return api.compress(
            picture, model=self.model, steps=self.steps, learn=self.learns(picture), batches=self.batches,
            device=self.device, backend=self.backend, tile=self.tile, strip=self.strip, verify=self.verify,
            brought=self.brought,
        )  # fmt: skip

    def group(self, picture: Picture) -> tuple[int, ...] | None:
        """The shape of pictures that this one is coded together with; None if it is coded alone."""
        frozen = self.steps is None and self.learns(picture) is False
        lattice = self.model == api.AUTO or not model.load(self.model).random_order
        plain = picture.format.is_plain and lockstep.suits(picture.height, picture.width)
        cut = self.tile is not None and self.tile != api.AUTO
        return picture.samples.shape if frozen and lattice and plain and not cut else None


def compress(pictures: Sequence[Picture], options: Options) -> list[bytes]:
    """The files of pictures, in their order: those of ``options.compress``, sooner. Raises what that raises."""
    groups: defaultdict[tuple[int, ...] | None, list[int]] = defaultdict(list)
    for i, picture in enumerate(pictures):
        groups[options.group(picture)].append(i)
    files: dict[int, bytes] = {i: options.compress(pictures[i]) for i in groups.pop(None, [])}
    for (height, width, _), members in groups.items():  # type: ignore[misc]
        for part in _cut(members, lockstep.batch_size(height, width)):
            files.update(zip(part, _together([pictures[i] for i in part], options), strict=True))
    return [files[i] for i in range(len(pictures))]


def _cut(members: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    return (members[start : start + size] for start in range(0, len(members), size))


def _together(pictures: Sequence[Picture], options: Options) -> list[bytes]:
    loaded = None if options.model == api.AUTO else differences.instead(model.load(options.model), options.brought)
    encoder = Encoder(loaded, learn=False, device=options.device, backend=options.backend, brought=options.brought)
    files = []
    bodies = encoder.encode_stack(np.stack([picture.samples for picture in pictures]), forced=loaded is not None)
    for picture, body in zip(pictures, bodies, strict=True):
        coded = raster.with_checksums(body, picture.samples)
        kept = metadata.pack(picture.metadata) if picture.metadata and not options.strip else None
        files.append(api.packed(coded, picture, kept)[0])
    if options.verify:
        found = restore(files, model_name=None if loaded is None else options.model, device=options.device,
                        backend=options.backend, brought=options.brought)  # fmt: skip
        for picture, restored in zip(pictures, found, strict=True):
            if isinstance(restored, ArdmError) or not np.array_equal(restored.samples, picture.samples):
                raise ArdmError("verification failed: the compressed data does not decode to the image")
    return files


def restore(
    files: Sequence[bytes | memoryview], *, model_name: str | Path | None = None, device: str = "auto",
    backend: str = "auto", max_pixels: int = MAX_PIXELS, brought: Sequence[bytes] = (),
) -> list[Picture | ArdmError]:  # fmt: skip
    """The pictures of ``.ardm`` files, in their order; or what is wrong with one, which does not touch the others.

    brought: differences of models that the archive of the files brings with it.
    """
    found: dict[int, Picture | ArdmError] = {}
    groups: defaultdict[lockstep.Kind, list[tuple[int, Container]]] = defaultdict(list)
    for i, file in enumerate(files):
        try:
            c = unpack(file, max_pixels)
            kind = lockstep.kind(c)
            if kind is None or c.pixel_format.depth < 8:
                found[i] = api.restore(
                    file, model=model_name, device=device, backend=backend, max_pixels=max_pixels, brought=brought
                )
            else:
                groups[kind].append((i, c))
        except ArdmError as error:
            found[i] = error
    for kind, members in groups.items():
        for part in _cut(members, lockstep.batch_size(kind.height, kind.width)):
            indices, containers = zip(*part, strict=True)
            found.update(zip(indices, _restored(containers, model_name, device, backend, brought), strict=True))
    return [found[i] for i in range(len(files))]


def _restored(
    containers: Sequence[Container], name: str | Path | None, device: str, backend: str, brought: Sequence[bytes]
) -> list[Picture | ArdmError]:
    """Pictures of containers of one kind."""
    try:
        loaded = api.fitting_model(containers[0].model_id, name, brought)
        decoded = lockstep.decode(containers, loaded, network.backend(device, backend))
    except ArdmError as error:  # no model or no device: that is the same for all of them
        return [error] * len(containers)
    found: list[Picture | ArdmError] = []
    for c, planes in zip(containers, decoded, strict=True):
        try:
            if isinstance(planes, FormatError):
                raise planes
            kept = () if c.metadata is None else tuple(metadata.unpack(c.metadata))
            samples = interleaved(planes).reshape(c.height, c.width, c.channels)
            found.append(Picture(samples, c.pixel_format, kept))
        except ArdmError as error:
            found.append(error)
    return found
