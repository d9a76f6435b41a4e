"""The exception tree of ardmzip; the command line maps every one of them to one line on stderr."""


class ArdmError(Exception):
    """Base of all errors that ardmzip raises on purpose; its text is one clear line."""


class ImageError(ArdmError):
    """The input is not an image that ardmzip can store, or not a dataset of such images."""


class FormatError(ArdmError):
    """The data is not a valid ``.ardm`` file: wrong magic, unknown version, truncated or damaged."""


class CutOffError(FormatError):
    """A ``.ardm`` file ends before what was asked for: more of it may be on its way."""


class ModelError(ArdmError):
    """A model is unknown, unreadable or damaged."""


class OptionError(ArdmError, ValueError):
    """An argument is out of its range."""


class BackendError(ArdmError):
    """A device or an arithmetic back end is missing or failed its exactness self-test."""
