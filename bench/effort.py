"""What ``--effort`` brings and costs: ``python -m bench.effort FOLDER... [--limit N]``, beside JPEG XL e7, e9 and e10.

Writes ``effort-SET.md`` and ``.json``, with sizes, seconds and all that bench.bench tells of a set.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

from ardmzip.benchmark import codecs
from ardmzip.benchmark.codecs import available_threads
from ardmzip.benchmark.tables import machine
from bench.bench import RESULTS, limit_threads, make_codecs, measure_table
from bench.images import folder_sets


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.effort", description="What --effort brings and costs.")
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER", help="folder of images, one set each")
    parser.add_argument("--out", type=Path, default=RESULTS, metavar="DIR", help="for results (default bench/results)")
    parser.add_argument("--threads", type=int, default=available_threads(), metavar="N", help="cores for every codec")
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N images of each set")
    names = [name for name in codecs.EFFORTS if name != "ardmzip-e4"]
    parser.add_argument("--codecs", nargs="+", choices=names, default=names, metavar="NAME",
                        help=f"some of {', '.join(names)} (default: all)")  # fmt: skip
    parser.add_argument("--model", default="auto", help="ardmzip's model, a name or a file (default auto)")
    args = parser.parse_args(argv)
    args.device = "cpu"
    limit_threads(args.threads)
    about = machine(args.threads)
    try:
        sets = [images.first(args.limit) for images in folder_sets(args.folders)]
    except (OSError, ValueError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    args.out.mkdir(parents=True, exist_ok=True)
    made, startup = make_codecs(args.codecs, args)
    notes = [f"limited to the first {args.limit} image(s)"] if args.limit else []
    failed = False
    for images in sets:
        images = replace(images, name=f"effort-{images.name}")
        _, summaries = measure_table(images, made, startup, about, notes, args.out)
        failed |= any(summary.failures for summary in summaries)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
