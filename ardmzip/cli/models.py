"""``ardmzip models``."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from typing import Any

import click

from ardmzip.cli import _common as common


@click.command(
    epilog="""\b
Examples:
  ardmzip models
  ardmzip models --json"""
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a model, with its whole card.")
def models(as_json: bool) -> int:
    """List the installed models: id, size, and what their cards say."""
    from ardmzip import model

    found = model.available()
    if not found and not as_json:
        click.echo("no models are installed", err=True)
    done = [common.attempt(name, lambda name=name: _show(name, found[name], as_json)) for name in found]  # type: ignore[misc]
    return 0 if all(done) else common.FAILED


def _show(name: str, path: Path, as_json: bool) -> None:
    from ardmzip import model
    from ardmzip.errors import ModelError

    metadata = model.read_metadata(path)
    try:
        card = json.loads(metadata["card"])
    except ValueError as error:
        raise ModelError("the model's card is not readable") from error
    if as_json:
        common.print_json({"name": name, "id": metadata["id"], "path": str(path), "card": card})
        return
    common.print_out(f"{name}  id {metadata['id']}  {path.stat().st_size} bytes  {path}")
    for key, value in card.items() if isinstance(card, dict) else []:
        common.print_out(f"  {key}: {textwrap.shorten(common.plain(_text(value)), 160, placeholder=' ...')}")


def _text(value: Any) -> str:
    """A value of a card on one line."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {_text(item)}" for key, item in value.items())
    if isinstance(value, list):
        return ", ".join(map(_text, value))
    return f"{value:.4g}" if isinstance(value, float) else " ".join(str(value).split())
