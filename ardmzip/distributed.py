"""Work on many shards at a time: in processes of this machine, or on a Ray cluster.

Results come in the order of the shards, so that what is made of them does not depend on where, and how fast, each was
worked on. A worker that dies is replaced, and its shard is worked on once more.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from ardmzip.errors import ArdmError, OptionError

S = TypeVar("S")
R = TypeVar("R")
ENGINES = ("local", "ray")
#: How often a shard is worked on again after its worker has died.
RETRIES = 3
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")


def map_shards(
    function: Callable[[S], R],
    shards: Iterable[S],
    workers: int,
    *,
    engine: str = "local",
    address: str | None = None,
    retries: int = RETRIES,
) -> Iterator[R]:
    """``function`` of every shard, in order.

    Args:
        function: of a module, or a ``partial`` of one. It must give the same for the same shard, as a shard may be
            worked on more than once. What it loads, such as a model, stays in its worker for the next shard.
        shards: taken when there is room: at most two for each worker are under way or waiting, and one more is taken.
        workers: how many shards are worked on at a time; each has its share of the processor's threads, and on Ray of
            the GPUs if the cluster has any.
        engine: ``local`` for processes of this machine (with one worker: this very process), ``ray`` for a Ray cluster.
        address: of the cluster, such as ``auto``; None is the one that this process is connected to, or else a new one
            on this machine that ends with the work.
        retries: how often a shard is begun again because its worker died.

    Raises what ``function`` raises, for the first shard in order for which it does; ArdmError where workers keep dying;
    OptionError.
    """
    if workers < 1:
        raise OptionError(f"workers must be at least 1, not {workers}")
    if engine not in ENGINES:
        raise OptionError(f"unknown engine: {engine}; use {' or '.join(ENGINES)}")
    if engine == "ray":
        return _on_ray(function, shards, workers, address, retries)
    if workers == 1:
        return map(function, shards)
    return _in_processes(function, shards, workers, retries)


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _died(times: int) -> ArdmError:
    return ArdmError(f"workers died {times} times at the same shard, perhaps for want of memory")


# Processes of this machine


@dataclass
class _Begun(Generic[S, R]):
    """A shard that is being worked on, or waits for it."""

    shard: S
    future: Future[R]
    deaths: int = 0


def _in_processes(
    function: Callable[[S], R], shards: Iterable[S], workers: int, retries: int
) -> Generator[R, None, None]:
    begun: deque[_Begun[S, R]] = deque()
    pool = _pool(workers)
    left = iter(shards)
    exhausted = False
    try:
        while True:
            try:
                while not exhausted and len(begun) < 2 * workers:
                    try:
                        shard = next(left)
                    except StopIteration:
                        exhausted = True
                        break
                    begun.append(_Begun(shard, Future()))
                    begun[-1].future = pool.submit(function, shard)
                if not begun:
                    return
                result = begun[0].future.result()
            except BrokenProcessPool:
                pool.shutdown(cancel_futures=True)
                pool = _pool(workers)
                _begin_again(begun, pool, function, retries)
            else:
                begun.popleft()
                yield result
    finally:
        pool.shutdown(cancel_futures=True)


def _begin_again(
    begun: Iterable[_Begun[S, R]], pool: ProcessPoolExecutor, function: Callable[[S], R], retries: int
) -> None:
    """Submit what a pool that has broken did not finish."""
    for work in begun:
        if work.future.done() and not isinstance(work.future.exception(), BrokenProcessPool):
            continue  # a result, or an error of the function's own
        work.deaths += 1
        if work.deaths > retries:
            raise _died(work.deaths)
        work.future = pool.submit(function, work.shard)


def _pool(workers: int) -> ProcessPoolExecutor:
    context = multiprocessing.get_context("spawn")  # torch's threads do not survive a fork
    return ProcessPoolExecutor(workers, context, _set_up, (max(1, cores() // workers),))


def _set_up(threads: int) -> None:
    """In a process, before torch is imported: its threads, and that it ends with its parent."""
    os.environ.update(dict.fromkeys(_THREADS, str(threads)))
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


# Ray


def _on_ray(
    function: Callable[[S], R], shards: Iterable[S], workers: int, address: str | None, retries: int
) -> Generator[R, None, None]:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ModuleNotFoundError as error:
        raise ArdmError("the engine ray needs Ray: pip install 'ardmzip[ray]'") from error
    ours = not ray.is_initialized()
    if ours:
        _connect(ray, address)
    begun: deque[Any] = deque()
    try:
        run: Any = ray.remote(_call).options(max_retries=retries, **_resources(ray.cluster_resources(), workers))
        shared = ray.put(function)
        for shard in shards:
            begun.append(run.remote(shared, shard))
            if len(begun) >= 2 * workers:
                yield _result(ray, begun, retries)
        while begun:
            yield _result(ray, begun, retries)
    finally:
        for reference in begun:
            ray.cancel(reference, force=True)
        if ours:
            ray.shutdown()


def _connect(ray: Any, address: str | None) -> None:
    """Join a cluster, or make one of this machine's cores."""
    quiet = {"logging_level": "ERROR", "log_to_driver": False}
    try:
        if address is not None:
            ray.init(address=address, **quiet)
        else:
            ray.init(address="local", num_cpus=cores(), include_dashboard=False, **quiet)
    except (OSError, RuntimeError, ValueError) as error:  # ConnectionError is an OSError
        raise ArdmError(f"no Ray cluster: {' '.join(str(error).split())}") from error


def _resources(cluster: dict[str, float], workers: int) -> dict[str, float]:
    """What each worker gets of a cluster.

    >>> _resources({"CPU": 16.0, "GPU": 2.0}, 4), _resources({"CPU": 2.0}, 2), _resources({"CPU": 2.0}, 4)
    ({'num_cpus': 4, 'num_gpus': 0.5}, {'num_cpus': 1}, {'num_cpus': 0.5})
    """
    cpus, gpus = cluster.get("CPU", 1.0), cluster.get("GPU", 0.0)
    found: dict[str, float] = {"num_cpus": int(cpus // workers) if cpus >= workers else cpus / workers}
    return found | ({"num_gpus": min(1.0, gpus / workers)} if gpus else {})


def _call(function: Callable[[S], R], shard: S) -> R:
    return function(shard)


def _result(ray: Any, begun: deque[Any], retries: int) -> Any:
    """Wait for the first of the shards that were begun."""
    try:
        result = ray.get(begun[0])
    except ray.exceptions.RayTaskError as error:
        raise error.cause from error  # what the function has raised
    except (ray.exceptions.WorkerCrashedError, ray.exceptions.NodeDiedError, ray.exceptions.OutOfMemoryError) as error:
        raise _died(retries + 1) from error
    begun.popleft()
    return result
