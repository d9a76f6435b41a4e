"""Lossless image compression with an autoregressive diffusion model, exact on every machine."""

from ardmzip.api import compress, decompress, decompress_array
from ardmzip.archive.reader import Archive
from ardmzip.errors import ArdmError, BackendError, CutOffError, FormatError, ImageError, ModelError, OptionError
from ardmzip.plugin import register_pillow_opener

__version__ = "0.1.0"

__all__ = [
    "Archive", "ArdmError", "BackendError", "CutOffError", "FormatError", "ImageError", "ModelError", "OptionError",
    "__version__", "compress", "decompress", "decompress_array", "register_pillow_opener",
]  # fmt: skip
