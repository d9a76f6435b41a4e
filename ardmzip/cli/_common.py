"""What the commands share: messages, options and reports."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import re
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

from ardmzip.cli import _signals
from ardmzip.container import MAX_PIXELS
from ardmzip.errors import ArdmError, ModelError

if TYPE_CHECKING:
    from ardmzip.container import Container

FAILED = 1


# Messages


def plain(name: object) -> str:
    """A text that can be printed on one line of any terminal: file names can hold anything.

    >>> print(plain("two\\nlines"))
    two?lines
    """
    return "".join(c if c.isprintable() else "?" for c in str(name))


def complain(label: str | None, message: str) -> None:
    """One red line on stderr."""
    text = plain(" ".join(message.split()))
    click.secho(f"ardmzip: {plain(label)}: {text}" if label else f"ardmzip: {text}", fg="red", err=True)


def note(label: str, message: str) -> None:
    """One yellow line on stderr, for what is worth knowing but no error."""
    click.secho(f"ardmzip: {plain(label)}: note: {message}", fg="yellow", err=True)


def describe(error: BaseException, label: str | None = None) -> str | None:
    """The text of an expected error, None for a bug. A file other than ``label`` is named."""
    if isinstance(error, MemoryError) or _is_torch_memory_error(error):
        return "not enough memory"
    if isinstance(error, OSError) and error.strerror is not None:
        return error.strerror + (f": {error.filename}" if str(error.filename) not in ("None", label) else "")
    return str(error) if isinstance(error, (ArdmError, OSError)) else None


def _is_torch_memory_error(error: BaseException) -> bool:
    # torch has its own classes, and must not be imported just to name them
    return isinstance(error, RuntimeError) and (
        type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(error)
    )


def fail(label: str, message: str, as_json: bool) -> None:
    """The line of a file that failed, and its JSON object if there is one for each file."""
    complain(label, message)
    if as_json:
        print_json({"input": "-" if label == "stdin" else label, "error": message})


def attempt(label: str, work: Callable[[], None], as_json: bool = False) -> bool:
    """Do some work; whether it went well. An expected error becomes one line that begins with ``label``.

    ``as_json``: with an object on stdout, too.
    """
    try:
        work()
    except KeyboardInterrupt as error:
        why, code = _signals.reason(error)
        complain(label, why)
        raise click.exceptions.Exit(code) from None
    except Exception as error:
        message = describe(error, label)
        if message is None or getattr(error, "errno", None) == errno.EPIPE:
            raise  # a bug; or nobody reads stderr, and click ends quietly
        fail(label, message.removeprefix(f"{label}: "), as_json)
        return False
    return True


def exit_code(label: str, work: Callable[[], None]) -> int:
    """``attempt``, for commands with a single piece of work."""
    return 0 if attempt(label, work) else FAILED


class OutputError(click.ClickException):
    """Standard output cannot be written to: no use in going on with the next file."""


def print_out(output: str | bytes) -> None:
    """A line of text, or bytes, on stdout."""
    if sys.stdout is None:
        raise OutputError("stdout: it is closed")
    try:
        click.echo(output, nl=isinstance(output, str))
    except OSError as error:
        drop_stdout()
        raise OutputError(f"stdout: {error.strerror or error}") from error


def drop_stdout() -> None:
    """Send what stdout still holds nowhere, or Python would try to write it at its end, and complain once more."""
    with contextlib.suppress(AttributeError, io.UnsupportedOperation, OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def print_json(values: dict[str, Any]) -> None:
    """One JSON object on one line of stdout."""
    print_out(json.dumps(values))


# Reports


@dataclass(frozen=True)
class Report:
    """What was done with one file: the keys of ``--json``. An output is None where nothing is written."""

    input: str
    output: str | None
    input_bytes: int
    raw_bytes: int
    output_bytes: int | None
    bits_per_subpixel: float
    width: int
    height: int
    channels: int
    depth: int
    layout: str
    coding: str
    model: str | None
    calls: int
    learning: bool
    seconds: float

    @property
    def figures(self) -> str:
        """Sizes and time for the summary line."""
        sizes = f"{self.input_bytes}" if self.output_bytes is None else f"{self.input_bytes} -> {self.output_bytes}"
        return f"{sizes} bytes  {self.bits_per_subpixel:.3f} bits per sub-pixel  {self.seconds:.1f} s"


@dataclass(frozen=True)
class PartReport(Report):
    """What was restored of a part of a file; the keys of Report tell of the whole image."""

    level: int
    region: tuple[int, int, int, int] | None
    part_width: int
    part_height: int

    @property
    def figures(self) -> str:
        """Sizes and time for the summary line."""
        pixels = f"{self.part_width} x {self.part_height} of {self.width} x {self.height} pixels"
        return f"{self.input_bytes} -> {self.output_bytes} bytes  {pixels}  {self.seconds:.1f} s"


def content(c: Container, ardm_bytes: int) -> dict[str, Any]:
    """The part of a report that a container of ``ardm_bytes`` bytes determines."""
    described = c.pixel_format
    return {
        "raw_bytes": described.raw_bytes(c.width, c.height),
        "bits_per_subpixel": round(8 * ardm_bytes / (c.width * c.height * described.channels), 6),
        "width": c.width,
        "height": c.height,
        "channels": described.channels,
        "depth": described.depth,
        "layout": described.layout,
        "coding": coding(c),
        "calls": c.network_calls,
        "learning": any(part.learning for part in c.parts),
    }


def coding(c: Container) -> str:
    """What codes the parts of an image, such as ``model, alpha WebP``; of tiles also how many are coded so."""
    from ardmzip import stored

    def part(body: Container) -> str:
        names = ["model" if body.stored is None else stored.describe(body.stored)]
        if body.low is not None and body.low.body is not None:
            names.append(f"low bits {part(body.low.body)}")
        if body.alpha is not None:
            extra = "padding" if c.pixel_format.layout == "RGB+padding" else "alpha"
            names.append(f"{extra} {part(body.alpha)}")
        return ", ".join(names)

    if c.tile is None:
        return part(c)
    found = Counter(map(part, c.tiles))
    if len(found) == 1:
        return next(iter(found))
    return "; ".join(f"{name} ({n} {'tile' if n == 1 else 'tiles'})" for name, n in found.items())


def details(c: Container, report: Report, device: str, backend: str, remark: str = "") -> str:
    """The line that -v adds, without times: image, coders, and what there is to say of a model and its head."""
    image = f"{c.width} x {c.height} {c.pixel_format.title}, {report.raw_bytes} bytes raw"
    line = f"{image}, coded by {report.coding}"
    if not c.uses_model:
        return line
    own = code_and_turn(any(part.code for part in c.parts), any(part.turned for part in c.parts))
    how = random_order(c) or own + head(report.learning) + remark
    model = f"model {report.model} ({c.model_id.hex()})"
    return f"{line}, {model}, {report.calls} network calls, {how}, {backend_name(device, backend)}"


def random_order(c: Container) -> str:
    """The random order that a body is coded in, or nothing."""
    from ardmzip.ardm.order import SPREADS

    found = [part.random for part in c.parts if part.random is not None]
    return f"random order of seed {found[0].seed}, {SPREADS[found[0].kind]} schedule" if found else ""


def code_and_turn(code: bool, turned: bool) -> str:
    """What a small picture tells of itself in a few bits, with a comma behind it, or nothing.

    >>> code_and_turn(True, False), code_and_turn(True, True), code_and_turn(False, False)
    ('side information by number, ', 'side information by number, turned, ', '')
    """
    return "side information by number, " * code + "turned, " * turned


def kind(channels: int) -> str:
    return "gray" if channels == 1 else "RGB"


def head(learning: bool, batches: int | None = None) -> str:
    """Whether the head learns, and the number of batches if the file lists their ends.

    >>> head(True), head(True, 1), head(True, 7)
    ('learning head', 'learning head, 1 planned batch', 'learning head, 7 planned batches')
    """
    if not learning:
        return "frozen head"
    unit = "batch" if batches == 1 else "batches"
    return "learning head" + ("" if batches is None else f", {batches} planned {unit}")


def fitted(spent: int, saved: int) -> str:
    """What changes of the model cost and save in a file.

    >>> fitted(1900, 6100)
    'changes of the model take 1900 bytes and save 6100'
    """
    return f"changes of the model take {spent} bytes and save {saved}"


def model_name(identity: bytes) -> str | None:
    """The name of the installed model with this id, else the id; None if the file needs no model."""
    from ardmzip import model
    from ardmzip.container import NO_MODEL

    if identity == NO_MODEL:
        return None
    return next(iter(model.named(identity)), identity.hex())


def backend_name(device: str, backend: str) -> str:
    """Device and arithmetic that the codec has chosen (it keeps its choice, so asking again costs nothing)."""
    from ardmzip import network

    return network.backend(device, backend).name


def check_model(name: str | None) -> None:
    """Refuse a model that is not there before any file is begun: no file is to blame."""
    if name is None or name == "auto":
        return
    from ardmzip import model

    try:
        model.check_name(name)
    except (ModelError, OSError) as error:
        raise click.UsageError(describe(error) or "") from error


# Options


@dataclass(frozen=True)
class Batch:
    """How several files are done."""

    workers: int = 1
    continue_on_error: bool = False
    #: Without the line of totals.
    quiet: bool = False
    #: With a JSON object for each file, also for one that failed.
    as_json: bool = False


Command = Callable[..., Any]


@dataclass(frozen=True)
class Messages:
    """-q, -v and --json."""

    quiet: bool
    verbose: bool
    as_json: bool

    @property
    def detailed(self) -> bool:
        """Whether details are printed: -q is stronger than -v."""
        return self.verbose and not self.quiet

    def tell(self, report: Report, line: str, *details: str) -> None:
        """The summary on stderr, with the lines of details if verbose, and the JSON on stdout."""
        if not self.quiet:
            click.echo(plain(line), err=True)
        if self.detailed:
            for detail in details:
                click.echo(f"  {plain(detail)}", err=True)
        if self.as_json:
            print_json(asdict(report))


def options(*decorators: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """Several click options as one decorator, in the order of the help page."""

    def decorate(command: Command) -> Command:
        for decorator in reversed(decorators):
            command = decorator(command)
        return command

    return decorate


#: Paths are looked at when it is their turn; the types are for the shell's completion.
path_type = click.Path(readable=False, allow_dash=True)


class TileSize(click.ParamType):
    """A number of pixels, none or auto."""

    name = "tile"

    def convert(self, value: str | int, param: click.Parameter | None, context: click.Context | None) -> str | int:
        if isinstance(value, int) or value in ("none", "auto"):
            return value
        if re.fullmatch(r"[1-9]\d{9,}", value):
            self.fail(f"{value[:20]} is too large: an image has at most {MAX_PIXELS} pixels", param, context)
        if re.fullmatch(r"[1-9]\d{0,8}", value) is None:
            self.fail(f"{value!r} is not a number of pixels, none or auto", param, context)
        return int(value)


def complete_model(_context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Names of installed models, for the shell's completion; or a file."""
    from ardmzip import model

    names = [CompletionItem(name) for name in model.available() if name.startswith(incomplete)]
    return names or [CompletionItem(incomplete, type="file")]


files_argument = click.argument("files", nargs=-1, required=True, metavar="FILE...", type=path_type)
model_option = click.option(
    "-m", "--model", default="auto", show_default=True, metavar="MODEL", shell_complete=complete_model,
    help="Name of an installed model (see ardmzip models), or path of a model file; auto takes the one that suits the "
    "image, or a general coder such as lossless WebP where that is smaller.",
)  # fmt: skip
steps_option = click.option(
    "--steps", type=click.IntRange(min=1), metavar="S",
    help="At most S network calls an image; by default as many as give the smallest file, or 500 with a model that "
    "codes in a random order.",
)  # fmt: skip
batches_option = click.option(
    "--batches", type=click.IntRange(min=1), metavar="N",
    help="Plan at most N batches for each head to learn in; by default many, for the smallest file. A model that does "
    "not learn by default needs --learn too.",
)  # fmt: skip
tile_option = click.option(
    "--tile", type=TileSize(), default="auto", show_default=True, metavar="N|none|auto",
    help="Cut an image into tiles of about N x N pixels: they bound the memory, and a region is restored from some "
    "of them. Their sides are multiples of 64, at least 64, and as equal as can be. none codes it in one piece; "
    "auto takes tiles of about 2048 for images of 2^24 pixels or more.",
)  # fmt: skip
strip_option = click.option(
    "--strip", is_flag=True, help="Leave out the metadata: EXIF data, colour profile, texts and the like."
)


def check_learning(learn: bool | None, batches: int | None) -> None:
    """Refuse batches for a head that does not learn."""
    if learn is False and batches is not None:
        raise click.UsageError("--batches is for learning: leave out --no-learn")


decoding_model_option = click.option(
    "-m", "--model", metavar="MODEL", shell_complete=complete_model,
    help="Name or file of the model, if it is not installed.  [default: found by its id in FILE]",
)  # fmt: skip
device_options = options(
    click.option(
        "--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True,
        help="Where the network runs. The result is the same everywhere.",
    ),
    click.option(
        "--backend", type=click.Choice(["auto", "int8", "float32", "float64"]), default="auto", show_default=True,
        help="Arithmetic of the network. The result is the same with all of them.",
    ),
)  # fmt: skip
output_options = options(
    click.option("-f", "--force", is_flag=True, help="Overwrite existing files."),
    click.option(
        "--rm/--keep", " /-k", "remove", default=False,
        help="Remove every source once its output is complete and verified, or keep it (the default). A source "
        "of which something is lost is kept.",
    ),
    click.option("-c", "--stdout", is_flag=True, help="Write to standard output; for a single FILE."),
)  # fmt: skip


continue_option = click.option(
    "--continue-on-error", is_flag=True,
    help="Go on with the other files after one has failed. By default the first failure ends the run.",
)  # fmt: skip
jobs_option = click.option(
    "--jobs", "workers", type=click.IntRange(min=1), default=1, show_default=True, metavar="N",
    help="Work on N files at a time, in N processes that share the processor's threads. Helps where cores are idle.",
)  # fmt: skip

engine_options = options(
    click.option(
        "--engine", type=click.Choice(["local", "ray"]), default="local", show_default=True,
        help="Where the N processes of --jobs run: here, or on a Ray cluster (pip install 'ardmzip[ray]'), each with a "
        "share of its GPUs. The result is the same.",
    ),
    click.option(
        "--address", metavar="ADDRESS", help="The Ray cluster, such as auto.  [default: a new one on this machine]"
    ),
)  # fmt: skip


def recursive_option(taken: str, writes: bool = True) -> Callable[[Command], Command]:
    """-r; ``taken`` are the files that it takes."""
    text = f"FILE may be a folder: take all {taken} below it."
    if writes:
        text += " With -o, OUT is a folder (made if need be) that gets the same tree."
    return click.option("-r", "--recursive", is_flag=True, help=text)


max_pixels_option = click.option(
    "--max-pixels", type=click.IntRange(min=1), default=MAX_PIXELS, show_default=True, metavar="N",
    help="Refuse an image of more than N pixels before any memory is taken for it.",
)  # fmt: skip


def message_options(remark: str = "") -> Callable[[Command], Command]:
    """-q, -v and --json; the remark ends the help of -v."""
    verbose = f"Also print model, network calls, back end and timings{remark}."
    return options(
        click.option("-q", "--quiet", is_flag=True, help="Print errors only."),
        click.option("-v", "--verbose", is_flag=True, help=verbose),
        click.option("--json", "as_json", is_flag=True, help="Print one JSON object for each file on standard output."),
    )
