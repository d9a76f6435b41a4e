"""Many files: folders, several processes, failures, totals, limits; through the real executable."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from test_cli import RGB, environment, listing, picture, pixels, refused, run, with_checksum

from ardmzip.cli import main
from ardmzip.container import Container, pack
from ardmzip.files import SOURCE_SUFFIXES
from ardmzip.formats import _FORMATS

TREE = {"a.png": 3, "sub/b.TIF": 1, "sub/deeper/c.bmp": 3, "sub/deeper/a.webp": 3}


@pytest.fixture
def images(tmp_path) -> Path:
    """A folder with rgb.png and gray.png."""
    picture(3).save(tmp_path / "rgb.png")
    picture(1).save(tmp_path / "gray.png")
    return tmp_path


@pytest.fixture(scope="module")
def packed(tmp_path_factory) -> Path:
    """A folder with rgb.png, gray.png, rgb.ardm and gray.ardm. Not to be changed."""
    folder = tmp_path_factory.mktemp("packed")
    picture(3).save(folder / "rgb.png")
    picture(1).save(folder / "gray.png")
    assert run("compress", "-q", "rgb.png", "gray.png", cwd=folder).returncode == 0
    return folder


@pytest.fixture
def tree(tmp_path) -> Path:
    """in/ with images of TREE (channels), a file that is none, and an empty folder."""
    for name, channels in TREE.items():
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        picture(channels).save(path, lossless=True)
    (tmp_path / "in" / "notes.txt").write_text("no image")
    (tmp_path / "in" / "empty").mkdir()
    return tmp_path


def names(folder: Path) -> list[str]:
    return sorted(listing(folder))


# Folders


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_trees_of_folders(tree, jobs):
    done = run("compress", "-r", "in", "-o", "new/out", "--jobs", jobs, cwd=tree)
    assert done.returncode == 0, done.stderr
    assert names(tree / "new") == [f"out/{name}" for name in ("a.ardm", *sorted(
        str(Path(name).with_suffix(".ardm")) for name in TREE if name != "a.png"))]  # fmt: skip
    assert re.fullmatch(r"4 files: 4 done  \d+ -> \d+ bytes  \d+\.\d s", done.stderr[-1])
    read, written = map(int, re.findall(r"\d+", done.stderr[-1].partition("done")[2])[:2])
    assert read == sum((tree / "in" / name).stat().st_size for name in TREE)
    assert written == sum(map(len, listing(tree / "new").values()))
    assert all(" -> " in line and line.endswith(" s") for line in done.stderr[:-1])

    done = run("test", "-r", "new", "--jobs", jobs, cwd=tree)
    assert done.returncode == 0
    assert sorted(line.split("  ")[1] for line in done.stderr[:-1]) == 4 * ["ok"]
    assert re.fullmatch(rf"4 files: 4 done  {written} bytes  \d+\.\d s", done.stderr[-1])

    done = run("decompress", "-r", "new", "-o", "back", "--jobs", jobs, "--json", "-q", cwd=tree)
    assert (done.returncode, done.stderr) == (0, [])
    assert sorted(json.loads(line)["output"] for line in done.stdout.splitlines()) == sorted(
        f"back/{name}" for name in names(tree / "back")
    )
    for name in TREE:
        assert pixels(tree / "back" / "out" / Path(name).with_suffix(".png")) == pixels(tree / "in" / name)


def test_a_tree_without_output_folder_and_a_file_beside_it(tree):
    picture(3).save(tree / "single.png")
    done = run("compress", "-r", "--rm", "in", "single.png", cwd=tree)
    assert done.returncode == 0
    left = {"notes.txt", *(str(Path(name).with_suffix(".ardm")) for name in TREE)}
    assert set(listing(tree / "in")) == left
    assert (tree / "single.ardm").exists()
    done = run("decompress", "-r", "in", "single.ardm", "-o", "back", cwd=tree)
    assert done.returncode == 0
    assert names(tree / "back") == sorted(["single.png", *(str(Path(name).with_suffix(".png")) for name in TREE)])


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes on this system")
def test_links_to_folders_are_not_followed_and_pipes_left_alone(tree):
    (tree / "in" / "loop").symlink_to(tree / "in", target_is_directory=True)
    (tree / "in" / "image.png").symlink_to(tree / "in" / "a.png")
    os.mkfifo(tree / "in" / "pipe.png")
    done = run("compress", "-r", "in", "-o", "out", cwd=tree)
    assert done.returncode == 0
    assert len(names(tree / "out")) == len(TREE) + 1


def test_folder_without_r_is_one_line(images):
    (images / "sub.png").mkdir()
    line = refused(run("compress", "sub.png", cwd=images), 1)
    assert line == "ardmzip: sub.png: is a folder (-r takes the files below it)"
    assert "is a folder" in refused(run("test", ".", cwd=images), 1)
    assert "is a folder" in refused(run("info", ".", cwd=images), 1)


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["compress", "-r", "in/empty"], "nothing to do below in/empty: no .apng .bmp"),
        (["decompress", "-r", "in"], "nothing to do below in: no .ardm files"),
        (["compress", "-r", "in", "-o", "in/notes.txt"], "must name a folder"),
        (["compress", "-r", "in", "-c"], "only one file"),
        (["compress", "-r", "in", "-", "-o", "out"], "stdin has no name"),
        (["compress", "-r", "in", "in/sub", "-o", "out", "in/a.png"], "both be written to out/a.ardm"),
        (["test", "--jobs", "2", "-", "in/a.png"], "leave out -"),
        (["compress", "--jobs", "0", "in/a.png"], "--jobs"),
        (["compress", "--max-pixels", "0", "in/a.png"], "--max-pixels"),
    ],
)
def test_wrong_usage_with_folders(tree, args, expected):
    before = listing(tree)
    assert expected in refused(run(*args, cwd=tree))
    assert listing(tree) == before


def test_suffixes_are_those_of_the_formats():
    Image.init()
    extensions = Image.registered_extensions().items()
    known = {suffix for suffix, name in extensions if name in _FORMATS and name != "ARDM"}
    assert set(SOURCE_SUFFIXES) == known - {".pfm"}  # always floating-point, which is refused


# Failures


def test_the_first_failure_ends_the_run(images):
    (images / "bad.png").write_text("no image")
    done = run("compress", "rgb.png", "bad.png", "gray.png", "nowhere.png", cwd=images)
    assert done.returncode == 1
    assert done.stderr[0].startswith("rgb.png -> rgb.ardm  ")
    assert done.stderr[1] == "ardmzip: bad.png: not an image, or of an unknown format"
    rest = "gray.png nowhere.png (--continue-on-error goes on after a failure)"
    assert done.stderr[2] == f"ardmzip: not processed: {rest}"
    assert re.fullmatch(r"4 files: 1 done, 1 failed, 2 not processed  \d+ -> \d+ bytes  \d+\.\d s", done.stderr[3])
    assert not (images / "gray.ardm").exists()


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_continue_on_error(images, jobs):
    (images / "bad.png").write_text("no image")
    args = ("bad.png", "rgb.png", "nowhere.png", "gray.png")
    done = run("compress", *args, "--continue-on-error", "--json", "--jobs", jobs, cwd=images)
    assert done.returncode == 1
    reports = {report["input"]: report for report in map(json.loads, done.stdout.splitlines())}
    assert sorted(name for name in reports if "output" in reports[name]) == ["gray.png", "rgb.png"]
    assert sorted(name for name in reports if "error" in reports[name]) == ["bad.png", "nowhere.png"]
    assert sorted(line for line in done.stderr if line.startswith("ardmzip: ")) == [
        "ardmzip: bad.png: not an image, or of an unknown format",
        "ardmzip: nowhere.png: No such file or directory",
    ]
    assert re.fullmatch(r"4 files: 2 done, 2 failed  \d+ -> \d+ bytes  \d+\.\d s", done.stderr[-1])


def test_several_processes_begin_nothing_after_a_failure(images):
    args = ("compress", "nowhere.png", *(f"not{i}.png" for i in range(30)), "--jobs", "2", "-q")
    done = run(*args, cwd=images)
    assert done.returncode == 1
    assert 1 <= sum("No such file" in line for line in done.stderr) <= 2
    assert re.search(r"not processed: not\d+\.png .* and \d+ more \(", done.stderr[-1])


def test_one_file_has_no_totals(packed):
    done = run("test", "rgb.ardm", "--jobs", "4", cwd=packed)
    assert [line.split("  ")[:2] for line in done.stderr] == [["rgb.ardm", "ok"]]


# Limits


def test_max_pixels(packed, tmp_path):
    n = picture(3).width * picture(3).height
    for command, *more in (["info"], ["test"], ["decompress", "-o", tmp_path / "x.png"]):
        line = refused(run(command, "rgb.ardm", *more, "--max-pixels", str(n - 1), cwd=packed), 1)
        assert f"over the limit of {n - 1} pixels (--max-pixels)" in line
        assert run(command, "rgb.ardm", *more, "--max-pixels", str(n), cwd=packed).returncode == 0
    assert pixels(tmp_path / "x.png") == RGB
    args = ("compress", "rgb.png", "-o", tmp_path / "x.ardm", "--max-pixels")
    line = refused(run(*args, str(n - 1), cwd=packed), 1)
    assert line == f"ardmzip: rgb.png: the image is over the limit of {n - 1} pixels (--max-pixels)"
    assert run(*args, str(n), cwd=packed).returncode == 0


def forged(width: int, height: int) -> bytes:
    """A file with good checksums that claims to hold a large image."""
    import numpy as np

    return pack(Container(width, height, 3, (0, 0), b"\1\2\3\4", b"", None, (np.zeros(1, np.uint32),), 0))


@pytest.mark.skipif(sys.platform == "win32", reason="needs limits of memory")
@pytest.mark.parametrize("command", ["info", "test", "decompress"])
def test_forged_sizes_fail_at_once_without_memory(tmp_path, command):
    import resource

    (tmp_path / "x.ardm").write_bytes(forged(2**31 - 1, 2**31 - 1))
    done = subprocess.run(
        [sys.executable, "-m", "ardmzip", command, "x.ardm"], cwd=tmp_path, env=environment(), capture_output=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30)), timeout=30,
    )  # fmt: skip
    assert done.returncode == 1
    line = "ardmzip: x.ardm: an image of 2147483647 x 2147483647 pixels is over the limit of 1073741824 pixels"
    assert done.stderr.decode() == f"{line} (--max-pixels)\n"


def test_no_memory_is_taken_for_forged_sizes():
    import tracemalloc

    import ardmzip

    data = forged(2**15, 2**15 + 1)
    huge = with_checksum(data[:6] + b"\x80\x80\x80\x80\x08" + data[9:-4])  # a width of 2^31: the format has no such
    with pytest.raises(ardmzip.FormatError):
        ardmzip.decompress(data)  # what it imports is not counted below
    for file, message in (data, "over the limit"), (huge, "width: the number is too large"):
        tracemalloc.start()
        try:
            with pytest.raises(ardmzip.FormatError, match=message):
                ardmzip.decompress(file)
            assert tracemalloc.get_traced_memory()[1] < 100_000
        finally:
            tracemalloc.stop()


# Outputs that cannot be written


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize(
    "args", [["info", "rgb.ardm"], ["test", "rgb.ardm", "gray.ardm", "--json"], ["decompress", "-c", "rgb.ardm"],
             ["models"], ["schedule", "--size", "9x9"], ["--help"], ["compress", "--help"], ["completion", "bash"]],
)  # fmt: skip
@pytest.mark.parametrize("target", ["/dev/full", "closed pipe"])
def test_stdout_that_cannot_be_written(packed, args, target):
    if target == "closed pipe":
        ours, theirs = os.pipe()
        os.close(ours)
    else:
        theirs = os.open(target, os.O_WRONLY)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "ardmzip", *args], cwd=packed, env=environment(), stdout=theirs,
            stderr=subprocess.PIPE, timeout=120,
        )  # fmt: skip
    finally:
        os.close(theirs)
    lines = [line for line in done.stderr.decode().splitlines() if "  ok  " not in line]
    (line,) = lines
    assert line.startswith("ardmzip: ")
    assert line.endswith(": No space left on device" if target == "/dev/full" else ": Broken pipe")
    assert done.returncode == 1


@pytest.mark.skipif(sys.platform == "win32", reason="needs a shell that closes streams")
def test_closed_streams(images):
    def shell(command: str) -> subprocess.CompletedProcess:
        line = f"exec {shlex.quote(sys.executable)} -m ardmzip {command}"
        return subprocess.run(["sh", "-c", line], cwd=images, env=environment(), capture_output=True, timeout=120)

    assert shell("compress rgb.png -o a.ardm 2>&- >&- <&-").returncode == 0
    assert shell("test a.ardm 2>&-").returncode == 0
    assert shell("info a.ardm >&-").stderr == b"ardmzip: stdout: it is closed\n"
    assert shell("decompress -c a.ardm >&-").stderr == b"ardmzip: stdout: it is closed\n"
    done = shell("compress - -o b.ardm <&-")
    assert (done.returncode, done.stderr) == (1, b"ardmzip: stdin: it is closed\n")
    assert not (images / "b.ardm").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="needs limits of files")
@pytest.mark.parametrize("overwrite", [False, True])
def test_file_that_cannot_be_written_whole(images, overwrite):
    """A limit of the size of files acts as a full disk does: the first bytes can be written."""
    import resource

    if overwrite:
        (images / "rgb.ardm").write_bytes(b"old")
    before = listing(images)
    done = subprocess.run(
        [sys.executable, "-m", "ardmzip", "compress", "-f", "rgb.png"], cwd=images, env=environment(),
        capture_output=True, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100)), timeout=120,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr == b"ardmzip: rgb.png: File too large: rgb.ardm\n"
    assert listing(images) == before


@pytest.mark.skipif(sys.platform != "linux", reason="needs a folder that nobody can write to")
def test_folder_that_cannot_be_written(images):
    line = refused(run("compress", "rgb.png", "-o", "/sys/ardmzip.ardm", cwd=images), 1)
    assert re.match(r"ardmzip: rgb\.png: (Permission denied|Read-only file system): /sys", line)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may do everything")
def test_files_and_folders_without_permission(images):
    (images / "gray.png").chmod(0)
    assert refused(run("compress", "gray.png", cwd=images), 1) == "ardmzip: gray.png: Permission denied"
    images.chmod(0o555)
    try:
        assert refused(run("compress", "rgb.png", cwd=images), 1) == "ardmzip: rgb.png: Permission denied: ."
    finally:
        images.chmod(0o755)


# Completion and help


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_script(tmp_path, shell):
    done = run("completion", shell, cwd=tmp_path)
    assert done.returncode == 0
    assert f"_ARDMZIP_COMPLETE={shell}_complete" in done.stdout.decode()
    if shell == "bash":
        subprocess.run(["bash", "-n"], input=done.stdout, check=True)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("ardmzip com", ["plain,compress", "plain,completion"]),
        ("ardmzip compress --cont", ["plain,--continue-on-error"]),
        ("ardmzip compress -m pho", ["plain,photo-cd", "plain,photo"]),
        ("ardmzip compress -m ./x", ["file,./x"]),
        ("ardmzip decompress x", ["file,x"]),
        ("ardmzip compress -o x", ["file,x"]),
        ("ardmzip compress --device cu", ["plain,cuda"]),
    ],
)
def test_completion(tmp_path, words, expected):
    variables = {"COMP_WORDS": words, "COMP_CWORD": str(len(words.split()) - 1), "_ARDMZIP_COMPLETE": "bash_complete"}
    command = [sys.executable, "-m", "ardmzip"]
    done = subprocess.run(command, cwd=tmp_path, env={**environment(), **variables}, capture_output=True, check=True)
    assert done.stdout.decode().split() == expected


def examples() -> list[str]:
    pages = [main.epilog, *(command.epilog for command in main.commands.values())]
    lines = [line.strip() for page in pages for line in page.splitlines()]
    return [line for line in lines if line.startswith(("ardmzip ", 'eval "$(ardmzip ')) and "COMMAND" not in line]


@pytest.mark.parametrize("example", examples())
def test_examples_of_the_help_pages_are_valid_calls(example):
    """All before a remark (behind two spaces), a pipe or a redirection."""
    call = re.split(r"  |\)\"| [|<>&]", example.removeprefix('eval "$('))[0]
    _, name, *words = shlex.split(call)
    command = main.commands[name]
    assert command.make_context(name, words).params
