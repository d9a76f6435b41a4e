"""The image file class behind plugin.register_pillow_opener; imports Pillow."""

from __future__ import annotations

from typing import IO, Any

from PIL import Image, ImageFile

from ardmzip import api, formats, metadata
from ardmzip.container import is_ardm, unpack


def accept(prefix: bytes) -> bool:
    """Whether a file that begins so is an ``.ardm`` file."""
    return is_ardm(prefix)


class ArdmImageFile(ImageFile.ImageFile):
    """An ``.ardm`` file, whose pixels are decoded when they are first needed."""

    format = "ARDM"
    format_description = "Lossless image compressed by ardmzip"

    def _open(self) -> None:
        assert self.fp is not None
        self._file = self.fp.read()
        container = unpack(self._file)
        described = container.pixel_format
        self._mode = formats.require_mode(described)
        self._size = container.width, container.height
        chunks = () if container.metadata is None else tuple(metadata.unpack(container.metadata))
        self.info = formats.info(described, chunks)
        if self._mode == "P":
            from PIL import ImagePalette

            self.palette = ImagePalette.raw("RGB", described.palette)
        self.tile = []  # there is nothing for Pillow's own decoders

    def load(self) -> Any:
        if self._file:
            restored = api.decompress(self._file)
            self.im, self.palette = restored.im, restored.palette
            self._file = b""
            if self._exclusive_fp and self.fp is not None:  # Pillow opened it, and closes only what it has decoded
                self.fp.close()
                self.fp = None
        return super().load()


def save(image: Image.Image, file: IO[bytes], filename: str | bytes) -> None:
    """Called by ``Image.save``; its keywords are those of api.compress."""
    file.write(api.compress(image, **image.encoderinfo))
