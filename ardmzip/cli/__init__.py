"""The command line. Nothing heavy is imported here: torch, numba and Pillow wait until a command needs them."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any, NoReturn

import click

from ardmzip import __version__
from ardmzip.cli import _signals
from ardmzip.cli._common import complain, describe, drop_stdout
from ardmzip.cli.archives import extract, list_command, repair, unpack
from ardmzip.cli.bench import bench
from ardmzip.cli.completion import completion
from ardmzip.cli.compress import compress
from ardmzip.cli.decompress import decompress
from ardmzip.cli.info import info
from ardmzip.cli.models import models
from ardmzip.cli.pack import pack
from ardmzip.cli.sample import sample
from ardmzip.cli.schedule import schedule
from ardmzip.cli.test import test
from ardmzip.cli.train import train
from ardmzip.files import remove_temporaries


class Group(click.Group):
    """Commands return their exit code, and every mistake in the call is one line."""

    def main(self, *args: Any, **extra: Any) -> NoReturn:
        extra |= {"prog_name": "ardmzip", "standalone_mode": False}
        _fill_standard_streams()
        try:
            code = super().main(*args, **extra)
        except click.Abort:  # interrupted before a command began
            code = _end("interrupted", 130)
        except click.UsageError as error:
            command = error.ctx.command_path if error.ctx else "ardmzip"
            code = _end(f"{error.format_message()} (see {command} --help)", error.exit_code)
        except click.ClickException as error:
            code = _end(error.format_message(), error.exit_code)
        sys.exit(code or 0)

    def list_commands(self, _context: click.Context) -> list[str]:
        """In the order in which they are of use."""
        return list(self.commands)

    def make_context(self, *args: Any, **extra: Any) -> click.Context:
        """Parse the options; --help and --version print here."""
        with _system_errors():
            return super().make_context(*args, **extra)

    def invoke(self, context: click.Context) -> Any:
        """Run a command; a signal ends it with one line, and nothing half-written is left."""
        with _system_errors(), _signals.caught():
            try:
                return super().invoke(context)
            except KeyboardInterrupt as error:
                raise click.exceptions.Exit(_end(*_signals.reason(error))) from None
            finally:
                remove_temporaries()


def _fill_standard_streams() -> None:
    """Where stdin, stdout or stderr is closed, the next file to be opened would take its place and its messages."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115


def _end(message: str, code: int) -> int:
    """The last line, and the exit code."""
    with contextlib.suppress(OSError):  # if nobody reads stderr, the code has to say it all
        complain(None, message)
    return code


@contextlib.contextmanager
def _system_errors() -> Iterator[None]:
    """An error from looking at paths, before there is work on a file, or from printing a page becomes one line."""
    try:
        yield
    except OSError as error:
        drop_stdout()
        raise click.ClickException(describe(error) or "") from error


@click.group(
    cls=Group,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="""\b
Examples:
  ardmzip compress img.png                 writes img.ardm
  ardmzip decompress img.ardm              writes img.png
  ardmzip compress -r photos -o archive    all images below a folder, into another
  ardmzip test -r archive                  checks that all of them can be restored
  ardmzip info img.ardm                    says what a file holds
  ardmzip pack photos -o photos.ardmz      all images below a folder, into one archive
  ardmzip extract photos.ardmz a.png       restores one of them

\b
ardmzip COMMAND --help explains a command.
Exit codes: 0 all went well, 1 a file failed, 2 wrong usage, 128 + N ended by signal N (130: Ctrl-C).""",
)
@click.version_option(__version__, "-V", "--version", message="%(prog)s %(version)s")
@click.pass_context
def main(context: click.Context) -> None:
    """Lossless image compression with a learned model.

    A restored image has exactly the pixels of the original, on every machine, and its depth, palette and metadata (EXIF
    data, colour profile, XMP, texts). It takes PNG, TIFF, WebP, BMP, PNM, GIF and TGA images.
    """
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


_COMMANDS = (
    compress, decompress, test, info, pack, list_command, unpack, extract, repair, models, schedule, bench, sample,
    train, completion,
)  # fmt: skip
for command in _COMMANDS:
    main.add_command(command)
