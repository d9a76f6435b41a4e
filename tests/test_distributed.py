"""Shards in processes and on Ray, with workers that are killed on the way."""

from __future__ import annotations

import os
import signal
import threading
import time
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest

import ardmzip
from ardmzip.distributed import map_shards
from ardmzip.errors import ArdmError, ImageError, OptionError


@pytest.fixture(scope="module", params=["local", "ray"])
def engine(request):
    """Ray with a cluster of two workers on this machine."""
    if request.param == "local":
        yield "local"
        return
    ray = pytest.importorskip("ray", reason="Ray is not installed (pip install 'ardmzip[ray]')")
    paths = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR",
             runtime_env={"env_vars": {"PYTHONPATH": paths}})  # fmt: skip
    yield "ray"
    ray.shutdown()


def square(number: int) -> int:
    time.sleep(0.02 * (number % 3))  # not ready in order
    return number**2


def picky(number: int) -> int:
    if number == 3:
        raise ImageError(f"{number} is damaged")
    return number


def dies_once(number: int, folder: Path) -> int:
    """Kills its own process, outright, the first time that it gets a 2."""
    mark = folder / f"killed {number}"
    if number == 2 and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def dies(_number: int) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return 0


def compress(image: np.ndarray) -> bytes:
    return ardmzip.compress(image, model="thumb", learn=False, verify=False)


def packed(shard: list[np.ndarray], folder: Path, code: Callable[[np.ndarray], bytes]) -> tuple[list[bytes], int]:
    """The files of some images, and who made them."""
    (folder / str(os.getpid())).touch()
    time.sleep(0.3)  # so that there is time for a murder
    return [code(image) for image in shard], os.getpid()


def shards() -> list[list[np.ndarray]]:
    y, x = np.mgrid[:24, :24]
    smooth = (np.stack([4 * x + i, 3 * y + 2 * i, x + y], -1) for i in range(16))
    images = [
        (image + np.random.default_rng(i).integers(0, 9, image.shape)).astype(np.uint8)
        for i, image in enumerate(smooth)
    ]
    return [images[i : i + 2] for i in range(0, 16, 2)]


def test_order(engine):
    assert list(map_shards(square, range(20), 2, engine=engine)) == [number**2 for number in range(20)]
    assert list(map_shards(square, [], 2, engine=engine)) == []


def test_shards_are_not_taken_all_at_once(engine):
    taken = []
    results = map_shards(square, (taken.append(i) or i for i in range(100)), 2, engine=engine)
    assert next(results) == 0
    assert len(taken) <= 5
    results.close()


def test_errors_of_the_function(engine):
    results = map_shards(picky, range(10), 2, engine=engine)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ImageError, match="3 is damaged"):
        next(results)


def test_a_worker_that_kills_itself(engine, tmp_path):
    assert list(map_shards(partial(dies_once, folder=tmp_path), range(6), 2, engine=engine)) == list(range(6))
    assert (tmp_path / "killed 2").exists()


def test_a_shard_that_kills_every_worker(engine):
    with pytest.raises(ArdmError, match="workers died 2 times at the same shard"):
        list(map_shards(dies, range(3), 2, engine=engine, retries=1))


def test_the_files_are_those_of_a_local_run(engine, tmp_path):
    """Two workers, one of which is killed while it is at work."""
    code = compress if engine == "ray" else zlib.compress  # new processes would have to load torch
    alone = [code(image) for shard in shards() for image in shard]
    killed = []

    def murder() -> None:
        while not (found := [path for path in tmp_path.iterdir() if path.name.isdecimal()]):
            time.sleep(0.01)
        killed.append(int(found[0].name))
        os.kill(killed[0], signal.SIGKILL)

    murderer = threading.Thread(target=murder)
    murderer.start()
    results = list(map_shards(partial(packed, folder=tmp_path, code=code), shards(), 2, engine=engine))
    murderer.join()
    assert [file for files, _ in results for file in files] == alone
    assert killed[0] not in {worker for _, worker in results}, "the worker was done before it was killed"
    assert len({worker for _, worker in results}) > 1


def test_one_worker_is_this_process():
    assert list(map_shards(lambda number: (number, os.getpid()), [1], 1)) == [(1, os.getpid())]


def test_mistakes():
    with pytest.raises(OptionError, match="workers must be at least 1"):
        map_shards(square, [], 0)
    with pytest.raises(OptionError, match="unknown engine: slurm; use local or ray"):
        map_shards(square, [], 2, engine="slurm")


def test_without_ray(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(ArdmError, match=r"pip install 'ardmzip\[ray\]'"):
        list(map_shards(square, [1], 2, engine="ray"))
