"""Pillow's ``Image.open`` and ``Image.save`` for ``.ardm`` files."""

from __future__ import annotations


def register_pillow_opener() -> None:
    """Let Pillow open and save ``.ardm`` files; call it once.

    Size, mode and metadata are known at once, the network runs when the pixels are needed. ``save`` takes the keywords
    of ``ardmzip.compress``. 16-bit images other than gray, for which Pillow has no mode, raise ImageError.

    >>> import ardmzip, io
    >>> from PIL import Image
    >>> ardmzip.register_pillow_opener()
    >>> file = io.BytesIO()
    >>> Image.new("L", (3, 2), 7).save(file, "ARDM")
    >>> image = Image.open(file)
    >>> image.format, image.mode, image.size, image.getpixel((0, 0))
    ('ARDM', 'L', (3, 2), 7)
    """
    from PIL import Image

    from ardmzip import pillow
    from ardmzip.files import SUFFIX

    name = pillow.ArdmImageFile.format
    Image.register_open(name, pillow.ArdmImageFile, pillow.accept)
    Image.register_save(name, pillow.save)
    Image.register_extension(name, SUFFIX)
    Image.register_mime(name, "image/x-ardm")
