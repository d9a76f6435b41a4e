"""``ardmzip train``."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import click

from ardmzip.cli import _common as common
from ardmzip.errors import ArdmError


@click.command(
    epilog="""\b
Examples:
  ardmzip train configs/photo.toml                     trains in runs/photo
  ardmzip train configs/photo.toml --stop-after 30     half an hour now ...
  ardmzip train configs/photo.toml                     ... and the rest later
  torchrun --nproc-per-node 4 -m ardmzip train my.toml   on four GPUs; my.toml sets parts = 4"""
)
@click.argument("config", metavar="CONFIG")
@click.option("--out", metavar="FOLDER", help="Folder of the run: checkpoint and log.  [default: runs/NAME]")
@click.option(
    "--stop-after", type=click.FloatRange(min=0, min_open=True), metavar="MIN",
    help="Save and stop after MIN minutes, even though the run's time budget is not used up.",
)  # fmt: skip
def train(config: str, out: str | None, stop_after: float | None) -> int:
    """Train a model, or go on with a run that was stopped.

    CONFIG is a TOML file (see configs/photo.toml): name, image folders, size of the network, time budget. The run
    saves a checkpoint every few minutes, so it can be interrupted and started again with the same command. When its
    time budget is used up it writes FOLDER/NAME.safetensors, which -m takes. FOLDER also has log.jsonl, log.csv and,
    where tensorboard is installed, its files. Needs pip install 'ardmzip[train]'.
    """
    return common.exit_code(config, lambda: _train(Path(config), out, stop_after))


def _train(config: Path, out: str | None, stop_after: float | None) -> None:
    config.read_bytes()  # a wrong name is found before torch is imported
    try:
        from ardmzip.training import ardm, ardm_export, export, train

        if ardm.is_random_order(config):
            settings: Any = ardm.ArdmConfig.load(config)
            run: Any = ardm.train
            finish: Any = ardm_export.export
        else:
            settings, run, finish = train.TrainConfig.load(config), train.train, export.export
        folder = Path(out) if out else Path("runs") / settings.name
        trained = run(settings, folder, stop_after)
        if trained.finished and int(os.environ.get("RANK", 0)) == 0:
            path = folder / f"{settings.name}.safetensors"
            card = finish(trained, path)
            click.echo(f"{path}: {json.dumps(card['validation'])}", err=True)
    except ModuleNotFoundError as error:
        raise ArdmError(f"training needs {error.name}: pip install 'ardmzip[train]'") from error
