"""Lossless image compression with an autoregressive diffusion model, exact on every machine."""

from ardmzip.api import compress, decompress
from ardmzip.errors import ArdmError, BackendError, FormatError, ImageError, ModelError, OptionError

__version__ = "0.1.0"

__all__ = [
    "ArdmError", "BackendError", "FormatError", "ImageError", "ModelError", "OptionError", "__version__", "compress",
    "decompress",
]  # fmt: skip
