"""Names of output files, and writing them so that a half-written one is never seen."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

SUFFIX = ".ardm"
#: Of archives.
ARCHIVE_SUFFIX = ".ardmz"
#: Suffixes of the formats that images are read from, for finding the images below a folder. Not all that these formats
#: can hold is supported, and a file of any other name can be named itself.
SOURCE_SUFFIXES = (
    ".apng", ".bmp", ".gif", ".icb", ".jfif", ".jpe", ".jpeg", ".jpg", ".mpo", ".pbm", ".pgm", ".png", ".pnm",
    ".ppm", ".tga", ".tif", ".tiff", ".vda", ".vst", ".webp",
)  # fmt: skip
#: Suffixes of the lossless image formats that a restored image can be written in, and Pillow's names for them.
IMAGE_FORMATS = {
    ".png": "PNG",
    ".bmp": "BMP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".ppm": "PPM",
    ".pgm": "PPM",
    ".pbm": "PPM",
    ".pnm": "PPM",
    ".webp": "WEBP",
}


def compressed_name(source: Path) -> Path:
    """Where an image is compressed to unless told otherwise.

    >>> print(compressed_name(Path("holiday.2024/img.png")).as_posix())
    holiday.2024/img.ardm
    >>> print(compressed_name(Path("img")))
    img.ardm
    """
    return source.with_suffix(SUFFIX)


def lengthened_name(source: Path) -> Path:
    """Where an image is compressed to if its suffix is kept, so that ``a.png`` and ``a.tif`` get names of their own.

    >>> print(lengthened_name(Path("img.png")))
    img.png.ardm
    """
    return source.with_name(source.name + SUFFIX)


def restored_name(source: Path) -> Path:
    """Where a ``.ardm`` file is restored to unless told otherwise: the kept suffix of an image is used again.

    >>> print(restored_name(Path("img.ardm")))
    img.png
    >>> print(restored_name(Path("img.tif.ardm")), restored_name(Path("img.gif.ardm")))
    img.tif img.gif.png
    >>> print(restored_name(Path("img.v2")))
    img.v2.png
    """
    bare = _without_suffix(source)
    if bare != source and bare.suffix.lower() in IMAGE_FORMATS:
        return bare
    return bare.with_name(bare.name + ".png")


def _without_suffix(source: Path) -> Path:
    return source.with_suffix("") if source.suffix.lower() == SUFFIX else source


def part_name(source: Path, part: str) -> Path:
    """Where a part of an image is restored to unless told otherwise: never to the name of the whole image.

    >>> print(part_name(Path("img.ardm"), "level2"))
    img.level2.png
    """
    bare = _without_suffix(source)
    return bare.with_name(f"{bare.name}.{part}.png")


def check_target(path: Path, overwrite: bool) -> None:
    """Raise OSError if ``path`` cannot become an output file; called before the work, so that none is wasted."""
    if not path.parent.is_dir():
        raise NotADirectoryError(f"there is no folder {path.parent}")
    if not os.access(path.parent, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path.parent))
    if not os.path.lexists(path):
        return
    if path.exists() and not path.is_file():
        raise OSError(f"{path} is not a regular file")  # renaming a file over /dev/null would replace it
    if not overwrite:
        raise FileExistsError(f"{path} exists already (-f overwrites it)")


def write_atomic(path: Path, data: bytes, overwrite: bool = False, like: os.stat_result | None = None) -> None:
    """Write a file that appears complete or not at all, as ``atomic_file`` does."""
    with atomic_file(path, overwrite, like) as file:
        file.write(data)


@contextlib.contextmanager
def atomic_file(path: Path, overwrite: bool = False, like: os.stat_result | None = None) -> Iterator[BinaryIO]:
    """A file to be written that appears complete or not at all, whatever happens meanwhile.

    The data goes to a temporary file in the same folder, to the disk, and only then gets its name. An existing file is
    replaced only if ``overwrite``; it keeps its permissions, unless those of another file, and its times, are given as
    ``like``. All that can be left behind, of a process that was killed, is a file ``.ardmzip-*.tmp``, which nobody
    reads.
    """
    check_target(path, overwrite)
    temporary = path.with_name(f".ardmzip-{secrets.token_hex(8)}.tmp")
    _temporaries.add(temporary)
    try:
        private = 0o666 if like is None else 0o600  # until it gets the permissions of the source
        with open(temporary, "xb", opener=lambda name, flags: os.open(name, flags, private)) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        publish(temporary, path, overwrite, like)
    except OSError as error:
        if error.errno is not None and error.filename in (None, str(temporary)):
            error.filename = str(path)  # a full disk, say: tell of the file that the user knows
        raise
    finally:
        temporary.unlink(missing_ok=True)
        _temporaries.discard(temporary)


def publish(temporary: Path, path: Path, overwrite: bool = False, like: os.stat_result | None = None) -> None:
    """Give a complete file, which is on the disk, its name.

    An existing one is replaced only if ``overwrite``, and keeps its permissions, unless those of another file, and its
    times, are given as ``like``.
    """
    if like is not None:
        _make_like(temporary, like)
    elif overwrite:
        with contextlib.suppress(OSError):
            os.chmod(temporary, path.stat().st_mode & 0o777)
    if overwrite:
        os.replace(temporary, path)
    else:
        _rename_new(temporary, path)
    temporary.unlink(missing_ok=True)  # the new name may be a second one
    _sync_folder(path.parent)


def _make_like(path: Path, like: os.stat_result) -> None:
    """Give a file permissions and times, as far as the system allows."""
    with contextlib.suppress(OSError):
        os.utime(path, ns=(like.st_atime_ns, like.st_mtime_ns))
    if os.name == "posix":  # elsewhere there is but one bit, and a read-only file cannot be renamed
        with contextlib.suppress(OSError):
            os.chmod(path, like.st_mode & 0o777)


#: Files that are being written.
_temporaries: set[Path] = set()


def remove_temporaries() -> None:
    """For a process that ends amid its work: an interruption may have come in the middle of cleaning up."""
    for temporary in tuple(_temporaries):
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _rename_new(temporary: Path, path: Path) -> None:
    """Give a file its name, unless another one has taken that name in the meantime."""
    try:
        os.link(temporary, path)  # unlike a rename, fails where the name is taken
    except FileExistsError:
        check_target(path, overwrite=False)
        raise
    except OSError:  # a file system without hard links
        check_target(path, overwrite=False)
        os.rename(temporary, path)


def _sync_folder(folder: Path) -> None:
    """Make the new name durable as well, so that the source may be removed. Not every system can; none fails for it."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
