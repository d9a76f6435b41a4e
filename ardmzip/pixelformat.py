"""What the samples of an image mean: layout, depth, palette and transparency (docs/FORMAT.md, "Format")."""

from __future__ import annotations

from dataclasses import dataclass

from ardmzip.errors import FormatError
from ardmzip.varint import Reader, varint

#: In the order of their numbers in a file, with the samples that a pixel has.
LAYOUTS = {"gray": 1, "gray+alpha": 2, "RGB": 3, "RGB+alpha": 4, "palette": 1, "RGB+padding": 4}
DEPTHS = (1, 2, 4, 8, 16)
MAX_PALETTE = 256

_NUMBERS = {layout: number for number, layout in enumerate(LAYOUTS)}
_SMALL_DEPTHS = ("gray", "palette")
_TRANSPARENCY = 1  # flag


@dataclass(frozen=True)
class PixelFormat:
    """Layout (a key of LAYOUTS) and depth (bits a sample), and what belongs to them.

    ``palette``: R, G, B of every entry. ``transparency``: for a palette the alpha of its first entries, a byte each;
    for gray and RGB the transparent colour, as numbers; else empty.
    """

    layout: str = "RGB"
    depth: int = 8
    palette: bytes = b""
    transparency: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        """Refuse with ValueError what cannot be."""
        if self.layout not in LAYOUTS or self.depth not in DEPTHS:
            raise ValueError(f"there are no {self.depth}-bit images of layout {self.layout}")
        if (self.depth < 8 and self.layout not in _SMALL_DEPTHS) or (self.depth > 8 and self.layout == "palette"):
            raise ValueError(f"{self.layout} images have no depth of {self.depth} bits")
        if self.layout == "palette":
            if len(self.palette) % 3 or not 3 <= len(self.palette) <= 3 * MAX_PALETTE:
                raise ValueError(f"a palette has 1 to {MAX_PALETTE} colours of 3 bytes, not {len(self.palette)} bytes")
            most, limit = len(self.palette) // 3, 256
            if len(self.transparency) > most:
                raise ValueError(f"transparency for {len(self.transparency)} of {most} colours")
        else:
            limit = 1 << self.depth
            if self.palette:
                raise ValueError(f"{self.layout} images have no palette")
            if len(self.transparency) not in ((0, self.channels) if self.layout in ("gray", "RGB") else (0,)):
                raise ValueError(f"a transparent colour of {len(self.transparency)} numbers does not fit {self.layout}")
        if any(not 0 <= value < limit for value in self.transparency):
            raise ValueError(f"transparency of more than {self.depth} bits")

    @property
    def channels(self) -> int:
        """Samples of a pixel."""
        return LAYOUTS[self.layout]

    @property
    def colours(self) -> int:
        """Samples of a pixel without alpha or padding: 1 or 3."""
        return (self.channels + 1) // 2 * 2 - 1

    @property
    def extra(self) -> bool:
        """Whether alpha, or padding, follows the colours."""
        return self.channels > self.colours

    @property
    def is_plain(self) -> bool:
        """Whether the header alone describes it: 8-bit gray or RGB."""
        return self in (PixelFormat("gray"), PixelFormat("RGB"))

    @property
    def title(self) -> str:
        """For people.

        >>> PixelFormat("RGB").title, PixelFormat("gray+alpha", 16).title
        ('RGB', '16-bit gray+alpha')
        >>> PixelFormat("palette", 4, bytes(9), (0,)).title
        '4-bit palette of 3 colours with transparency'
        """
        depth = "" if self.depth == 8 else f"{self.depth}-bit "
        colours = len(self.palette) // 3
        palette = "" if not colours else " of 1 colour" if colours == 1 else f" of {colours} colours"
        if not self.transparency:
            return f"{depth}{self.layout}{palette}"
        return f"{depth}{self.layout}{palette} with {'transparency' if self.palette else 'a transparent colour'}"

    def raw_bytes(self, width: int, height: int) -> int:
        """Bytes of the samples, packed without gaps."""
        return (width * height * self.channels * self.depth + 7) // 8

    def to_bytes(self) -> bytes:
        """The payload of a format chunk."""
        parts = [bytes([_NUMBERS[self.layout], self.depth, _TRANSPARENCY if self.transparency else 0])]
        if self.palette:
            parts += [varint(len(self.palette) // 3), self.palette]
        if self.transparency:
            if self.palette:
                parts += [varint(len(self.transparency)), bytes(self.transparency)]
            else:
                parts += [value.to_bytes(2, "little") for value in self.transparency]
        return b"".join(parts)

    @staticmethod
    def from_bytes(payload: bytes | memoryview) -> PixelFormat:
        """The format of a chunk's payload; raises FormatError.

        >>> PixelFormat.from_bytes(PixelFormat("gray", 2, transparency=(3,)).to_bytes())
        PixelFormat(layout='gray', depth=2, palette=b'', transparency=(3,))
        """
        reader = Reader(memoryview(payload))
        number, depth, flags = reader.byte(), reader.byte(), reader.byte()
        if number >= len(LAYOUTS) or flags & ~_TRANSPARENCY:
            raise FormatError(f"unknown pixel format {number} with flags {flags}: the file needs a newer ardmzip")
        layout = list(LAYOUTS)[number]
        palette = b""
        if layout == "palette":
            colours = reader.size("colours of the palette")
            if colours > MAX_PALETTE:
                raise FormatError(f"a palette of {colours} colours")
            palette = bytes(reader.take(3 * colours))
        transparency: tuple[int, ...] = ()
        if flags & _TRANSPARENCY:
            if palette:
                transparency = tuple(reader.take(reader.size("transparent colours")))
            else:
                transparency = tuple(int.from_bytes(reader.take(2), "little") for _ in range(LAYOUTS[layout]))
        if reader.left():
            raise FormatError(f"{reader.left()} stray bytes in the format chunk")
        try:
            found = PixelFormat(layout, depth, palette, transparency)
        except ValueError as error:
            raise FormatError(f"invalid format chunk: {error}") from error
        if found.is_plain:
            raise FormatError("a format chunk for plain 8-bit samples")
        return found
