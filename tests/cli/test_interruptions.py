"""Commands that are interrupted or killed, through the real executable.

ARDMZIP_KILLS=50 makes the test of kills longer than it is in a usual run.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_cli import environment, listing, run

import ardmzip

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs signals")

KILLS = int(os.environ.get("ARDMZIP_KILLS", "6"))
NAMES = [f"{i:02}" for i in range(40)]
TEMPORARY = re.compile(r"\.ardmzip-[0-9a-f]+\.tmp")


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> dict[str, dict[str, bytes]]:
    """What complete runs make: png (of our own), ardm (by compress) and back (by decompress), file by file."""
    folder = tmp_path_factory.mktemp("whole")
    (folder / "png").mkdir()
    for i, name in enumerate(NAMES):
        array = np.random.default_rng(i).integers(0, 256, (6, 5, 3), dtype=np.uint8)
        Image.fromarray(array).save(folder / "png" / f"{name}.png")
    assert run("compress", "-q", "-r", "png", "-o", "ardm", cwd=folder).returncode == 0
    assert run("decompress", "-q", "-r", "ardm", "-o", "back", cwd=folder).returncode == 0
    made = {name: listing(folder / name) for name in ("png", "ardm", "back")}
    assert [len(files) for files in made.values()] == 3 * [len(NAMES)]
    for name in NAMES:
        with Image.open(folder / "png" / f"{name}.png") as image, Image.open(folder / "back" / f"{name}.png") as back:
            restored = ardmzip.decompress(made["ardm"][f"{name}.ardm"])
            assert image.tobytes() == restored.tobytes() == back.tobytes()
    return made


def write(folder: Path, files: dict[str, bytes]) -> None:
    folder.mkdir(exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)


def begin(*args: str, cwd: Path, group: bool = False) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "ardmzip", *args], cwd=cwd, env=environment(), stderr=subprocess.PIPE,
        start_new_session=group,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # background jobs inherit that it is ignored
    )  # fmt: skip


def read_lines(process: subprocess.Popen, count: int) -> None:
    """Wait until so many files are done."""
    for _ in range(count):
        assert process.stderr.readline().endswith(b" s\n")


def rest(process: subprocess.Popen) -> list[str]:
    """The lines after those of the files that were done."""
    with process.stderr:
        lines = process.stderr.read().decode().splitlines()
    process.wait(timeout=60)
    return [line for line in lines if " -> " not in line]


@pytest.mark.parametrize("command", ["compress", "decompress", "compress --rm", "decompress -f"])
def test_kills_leave_no_partial_file(whole, tmp_path, command):
    """Every file under a final name is complete, whenever the process is killed; no image is lost."""
    verb, *option = command.split()
    source, target = ("png", "ardm") if verb == "compress" else ("ardm", "back")
    rng = random.Random(command)
    stale = 0
    for kill in range(-(-KILLS // 4)):
        folder = tmp_path / str(kill)
        folder.mkdir()
        write(folder / "in", whole[source])
        (folder / "out").mkdir()
        if option == ["-f"]:  # files to be overwritten, every one complete as well
            write(folder / "out", dict.fromkeys(whole[target], b"old"))
        process = begin(verb, "-r", "in", "-o", "out", *option, cwd=folder)
        read_lines(process, rng.randrange(1, len(NAMES) - 8))
        time.sleep(rng.uniform(0, 0.03))
        process.kill()
        rest(process)
        assert process.returncode == -signal.SIGKILL
        left, made = listing(folder / "in"), listing(folder / "out")
        temporary = [name for name in made if TEMPORARY.fullmatch(name)]
        assert len(temporary) <= 1
        stale += len(temporary)
        final = {name: data for name, data in made.items() if name not in temporary}
        new = {name for name, data in final.items() if data == whole[target][name]}
        assert new
        assert all(data == b"old" and option == ["-f"] for name, data in final.items() if name not in new)
        assert all(left[name] == whole[source][name] for name in left)
        for name in NAMES:
            of = [file for file in whole[source] if Path(file).stem == name]
            assert of[0] in left or any(Path(file).stem == name for file in new)
        if option != ["--rm"]:
            assert left == whole[source]
        # what is left behind does not disturb the next run
        if kill == 0:
            write(folder / "out", {".ardmzip-0123456789abcdef.tmp": b"partial"})
            assert run(verb, "-q", "-f", "-r", "in", "-o", "out", cwd=folder).returncode == 0
            done = listing(folder / "out")
            assert {name: done[name] for name in whole[target]} == whole[target]
        shutil.rmtree(folder)
    print(f"{command}: {stale} temporary files left by {-(-KILLS // 4)} kills")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_end_in_one_line_and_leave_nothing(whole, tmp_path, number):
    if signal.getsignal(number) == signal.SIG_IGN:
        pytest.skip(f"signal {number} is ignored here, as nohup has it")
    write(tmp_path / "in", whole["png"])
    rng = random.Random(number)
    process = begin("compress", "-r", "in", "-o", "out", cwd=tmp_path)
    read_lines(process, rng.randrange(1, 20))
    time.sleep(rng.uniform(0, 0.03))
    process.send_signal(number)
    (line,) = rest(process)
    assert process.returncode == 128 + number
    assert line.endswith(": interrupted" if number == signal.SIGINT else f": ended by {number.name}")
    made = listing(tmp_path / "out")
    assert made
    assert made == {name: whole["ardm"][name] for name in made}


def children(process: subprocess.Popen) -> list[int]:
    """Processes that descend from one, by Linux's /proc."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if fields[0] != "Z":
            parents[int(stat.parent.name)] = int(fields[1])
    found = [process.pid]
    for pid in found:
        found += [child for child, parent in parents.items() if parent == pid]
    return found[1:]


def alive(pids: list[int]) -> Iterator[int]:
    for pid in pids:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
                yield pid
        except OSError:
            continue


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_several_processes_end_together(whole, tmp_path, number):
    write(tmp_path / "in", whole["png"])
    process = begin("compress", "-r", "in", "-o", "out", "--jobs", "2", cwd=tmp_path, group=True)
    read_lines(process, 3)
    workers = children(process)
    assert len(workers) >= 2
    if number == signal.SIGINT:
        os.killpg(process.pid, number)  # as a terminal does
    else:
        process.send_signal(number)
    lines = rest(process)
    if number == signal.SIGKILL:
        assert process.returncode == -number
    else:
        assert process.returncode == 128 + number
        assert lines == ["ardmzip: " + ("interrupted" if number == signal.SIGINT else "ended by SIGTERM")]
    until = time.monotonic() + 60
    while list(alive(workers)) and time.monotonic() < until:
        time.sleep(0.05)
    assert list(alive(workers)) == []
    made = listing(tmp_path / "out")
    assert len(made) >= 3
    assert made == {name: whole["ardm"][name] for name in made}  # not even a temporary file


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_a_killed_worker_fails_its_files_only(whole, tmp_path):
    write(tmp_path / "in", whole["png"])
    process = begin("compress", "-r", "in", "-o", "out", "--jobs", "2", "--continue-on-error", cwd=tmp_path)
    read_lines(process, 3)
    worker = next(pid for pid in children(process) if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes())
    os.kill(worker, signal.SIGKILL)
    with process.stderr:
        lines = process.stderr.read().decode().splitlines()
    assert process.wait(timeout=60) == 1
    lost = [line.split(": ")[1] for line in lines if "its process was killed" in line]
    assert 1 <= len(lost) <= 2
    assert f"{len(NAMES)} files: {len(NAMES) - len(lost)} done, {len(lost)} failed  " in lines[-1]
    made = {name: data for name, data in listing(tmp_path / "out").items() if not TEMPORARY.fullmatch(name)}
    assert made == {name: whole["ardm"][name] for name in made}
    assert len(made) >= len(NAMES) - len(lost)


def test_tiles_end_soon_after_an_interruption():
    from ardmzip import raster

    def work(index: int, report: Callable[[float], None]) -> None:
        if index == 0:
            raise KeyboardInterrupt
        while time.perf_counter() < started + 60:
            report(0.5)
            time.sleep(0.01)

    started = time.perf_counter()
    with pytest.raises(KeyboardInterrupt):
        raster._each(work, [1, 1, 1], 2, None)
    assert time.perf_counter() < started + 30
