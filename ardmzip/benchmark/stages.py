"""Where the codec's time goes: seconds by stage."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Stages:
    """Seconds by stage. Stages are functions of modules and classes, wrapped where they stand."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._wrapped: list[tuple[Any, str, Any]] = []
        self._lock = threading.Lock()

    def wrap(self, owner: Any, name: str, stage: str) -> None:
        function = getattr(owner, name)

        def timed(*args: Any, **options: Any) -> Any:
            begin = time.perf_counter()
            result = function(*args, **options)
            with self._lock:
                self.seconds[stage] += time.perf_counter() - begin
            return result

        self._wrapped.append((owner, name, function))
        setattr(owner, name, timed)

    def unwrap(self) -> None:
        """Put back what was wrapped."""
        while self._wrapped:
            setattr(*self._wrapped.pop())


def wrap_codec(stages: Stages) -> None:
    """The stages of ardmzip's codec; none of them calls another."""
    import torch

    from ardmzip import kernels, rans
    from ardmzip.learning import Head

    for owner, name, stage in (
        (torch, "_int_mm", "int8 products"), (kernels, "window_features", "features"),
        (kernels, "requantise", "requantisation"), (kernels, "find_contexts", "contexts"),
        (kernels, "mixtures", "mixtures"), (kernels, "intervals", "frequencies"), (kernels, "rows", "frequencies"),
        (kernels, "gradient", "gradient"), (kernels, "learn_offsets", "offsets"), (Head, "learn", "steps of weights"),
        (rans.Encoder, "push", "entropy coder"), (rans.Encoder, "finish", "entropy coder"),
        (rans.Decoder, "pop", "entropy coder"),
    ):  # fmt: skip
        stages.wrap(owner, name, stage)


@contextmanager
def codec_stages() -> Iterator[Stages]:
    """Times the codec's stages, on one thread, so that they add up to what all of it takes."""
    import torch

    stages, threads = Stages(), torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        wrap_codec(stages)
        yield stages
    finally:
        stages.unwrap()
        torch.set_num_threads(threads)
