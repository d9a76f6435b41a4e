"""The command line. Nothing heavy is imported here: torch, numba and Pillow wait until a command needs them."""

from __future__ import annotations

import sys
from typing import Any, NoReturn

import click

from ardmzip import __version__
from ardmzip.cli._common import FAILED, INTERRUPTED, complain, describe
from ardmzip.cli.compress import compress
from ardmzip.cli.decompress import decompress
from ardmzip.cli.info import info
from ardmzip.cli.models import models
from ardmzip.cli.schedule import schedule
from ardmzip.cli.test import test
from ardmzip.cli.train import train


class Group(click.Group):
    """Commands return their exit code, and every mistake in the call is one line."""

    def main(self, *args: Any, **extra: Any) -> NoReturn:
        extra |= {"prog_name": "ardmzip", "standalone_mode": False}
        try:
            code = super().main(*args, **extra)
        except click.Abort:
            complain(None, "interrupted")
            code = INTERRUPTED
        except click.ClickException as error:
            context = getattr(error, "ctx", None)
            command = context.command_path if context else "ardmzip"
            complain(None, f"{error.format_message()} (see {command} --help)")
            code = error.exit_code
        except OSError as error:  # from looking at the paths, before there is work on a file
            complain(None, describe(error) or "")
            code = FAILED
        sys.exit(code or 0)


@click.group(
    cls=Group,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="""\b
Examples:
  ardmzip compress img.png                 writes img.ardm
  ardmzip decompress img.ardm              writes img.png
  ardmzip compress *.png -o archive/       many files, into a folder
  ardmzip test archive/*.ardm              checks that all of them can be restored
  ardmzip info img.ardm                    says what a file holds

\b
ardmzip COMMAND --help explains a command.
Exit codes: 0 all went well, 1 a file failed, 2 wrong usage, 130 interrupted.""",
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


for command in (compress, decompress, test, info, schedule, train, models):
    main.add_command(command)
