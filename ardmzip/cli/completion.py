"""``ardmzip completion``."""

from __future__ import annotations

import click

from ardmzip.cli import _common as common

SHELLS = ("bash", "zsh", "fish")


@click.command(
    epilog="""\b
Examples:
  eval "$(ardmzip completion bash)"                in ~/.bashrc
  eval "$(ardmzip completion zsh)"                 in ~/.zshrc, after compinit
  ardmzip completion fish > ~/.config/fish/completions/ardmzip.fish"""
)
@click.argument("shell", type=click.Choice(SHELLS), metavar="SHELL")
@click.pass_context
def completion(context: click.Context, shell: str) -> int:
    """Print a script for a shell's completion.

    With it the Tab key completes commands, options, names of models, and files. SHELL is bash (4.4 or newer), zsh or
    fish. The script asks ardmzip itself, so it stays right when ardmzip is updated.
    """
    from click.shell_completion import get_completion_class

    script = get_completion_class(shell)
    assert script is not None
    # not script.source(), which for bash runs another bash just to warn of old versions
    complete = script(context.find_root().command, {}, "ardmzip", "_ARDMZIP_COMPLETE")
    common.print_out((complete.source_template % complete.source_vars()).strip())
    return 0
