"""The command line, through the real executable."""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import ardmzip
from ardmzip import model
from ardmzip.cli import _common, _progress
from ardmzip.container import pack, unpack
from ardmzip.errors import ArdmError

ROOT = Path(ardmzip.__file__).parent.parent
WIDTH, HEIGHT = 24, 16
COMMANDS = (
    "compress", "decompress", "test", "info", "pack", "list", "unpack", "extract", "repair", "schedule", "train",
    "models",
)  # fmt: skip
HEAVY = ("torch", "numba", "PIL", "rich", "matplotlib", "safetensors")


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}


def start(*args: str, cwd: Path, **pipes) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-m", "ardmzip", *map(str, args)], cwd=cwd, env=environment(), **pipes)


def run(*args: str, cwd: Path, stdin: bytes = b"") -> subprocess.CompletedProcess:
    """Run ardmzip; stdout stays bytes, stderr becomes its lines."""
    command = [sys.executable, "-m", "ardmzip", *map(str, args)]
    done = subprocess.run(command, cwd=cwd, env=environment(), input=stdin, capture_output=True, timeout=300)
    done.stderr = done.stderr.decode().splitlines()
    assert not any("Traceback" in line for line in done.stderr), done.stderr
    return done


def listing(folder: Path) -> dict[str, bytes]:
    """Everything in a folder: that a command left no trace is that this stays the same."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def picture(channels: int) -> Image.Image:
    rng = np.random.default_rng(channels)
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    planes = np.stack([8 * x, 9 * y, 4 * x + 5 * y], -1) + rng.integers(0, 12, (HEIGHT, WIDTH, 3))
    array = planes.clip(0, 255).astype(np.uint8)
    return Image.fromarray(array if channels == 3 else array[..., 0])


def pixels(source: Path | io.BytesIO) -> tuple[str, bytes]:
    with Image.open(source) as image:
        return image.mode, image.tobytes()


RGB, GRAY = (("RGB", picture(3).tobytes()), ("L", picture(1).tobytes()))


@pytest.fixture(scope="session")
def packed(tmp_path_factory) -> dict:
    """rgb.png and gray.png, compressed: their folder, and what the command printed. Not to be changed."""
    folder = tmp_path_factory.mktemp("packed")
    picture(3).save(folder / "rgb.png")
    picture(1).save(folder / "gray.png")
    done = run("compress", "rgb.png", "gray.png", "-m", "photo", "--json", "-v", cwd=folder)
    assert done.returncode == 0, done.stderr
    return {"folder": folder, "done": done, "files": listing(folder)}


@pytest.fixture
def folder(packed, tmp_path) -> Path:
    """A folder of one's own with rgb.png, gray.png, rgb.ardm and gray.ardm."""
    shutil.copytree(packed["folder"], tmp_path / "f")
    return tmp_path / "f"


@pytest.fixture
def images(tmp_path) -> Path:
    """A folder with rgb.png and gray.png only; needs no model."""
    picture(3).save(tmp_path / "rgb.png")
    picture(1).save(tmp_path / "gray.png")
    return tmp_path


# Help, version, and what they import


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_every_command(command, tmp_path):
    done = run(command, "--help", cwd=tmp_path)
    assert done.returncode == 0
    assert b"Usage: ardmzip " + command.encode() in done.stdout
    assert b"Examples:" in done.stdout


def test_help_and_version(tmp_path):
    for args in (["--help"], ["-h"], []):
        done = run(*args, cwd=tmp_path)
        assert done.returncode == 0
        assert all(command in done.stdout.decode() for command in COMMANDS)
    assert run("--version", cwd=tmp_path).stdout.decode() == f"ardmzip {ardmzip.__version__}\n"


def imported(args: list[str], cwd: Path) -> list[str]:
    """The heavy packages that a command imports."""
    code = (
        f"import sys; from ardmzip.cli import main\ntry: main({args!r})\nexcept SystemExit as e: assert e.code == 0\n"
        f"print([m for m in {HEAVY!r} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=cwd, env=environment(), capture_output=True, check=True)
    return json.loads(done.stdout.decode().splitlines()[-1].replace("'", '"'))


@pytest.mark.parametrize("args", [["--help"], ["--version"], ["compress", "--help"], ["train", "--help"], ["models"]])
def test_light_commands_import_nothing_heavy(args, tmp_path):
    assert imported(args, tmp_path) == []


def test_info_and_schedule_import_nothing_heavy(packed):
    assert imported(["info", "rgb.ardm"], packed["folder"]) == []
    assert "torch" not in imported(["schedule"], packed["folder"])


@pytest.mark.skipif(sys.platform == "win32", reason="needs the CPU time of child processes")
@pytest.mark.parametrize("args", [["--help"], ["--version"], ["info", "rgb.ardm"]])
def test_light_commands_take_less_than_half_a_second(args, packed):
    import resource

    def seconds() -> float:  # of the processor: other processes do not count
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert run(*args, cwd=packed["folder"]).returncode == 0
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    assert min(seconds() for _ in range(3)) < 0.5


# Round trips


def test_compress_reports(packed):
    done = packed["done"]
    rgb, gray = map(json.loads, done.stdout.splitlines())
    keys = "input output input_bytes raw_bytes output_bytes bits_per_subpixel width height channels depth layout "
    keys += "coding model calls learning seconds"
    assert list(rgb) == keys.split()
    size = len(packed["files"]["rgb.ardm"])
    assert rgb | {"seconds": 0, "calls": 0} == {
        "input": "rgb.png", "output": "rgb.ardm", "input_bytes": len(packed["files"]["rgb.png"]),
        "raw_bytes": 3 * WIDTH * HEIGHT, "output_bytes": size, "width": WIDTH, "height": HEIGHT, "channels": 3,
        "bits_per_subpixel": round(8 * size / (3 * WIDTH * HEIGHT), 6), "model": "photo", "calls": 0, "seconds": 0,
        "learning": True, "depth": 8, "layout": "RGB", "coding": "model",
    }  # fmt: skip
    assert gray["channels"] == 1
    assert 0 < gray["calls"] < rgb["calls"] <= 45
    first, details = done.stderr[:2]
    assert first.startswith(f"rgb.png -> rgb.ardm  {rgb['input_bytes']} -> {size} bytes  ")
    assert f"{rgb['bits_per_subpixel']:.3f} bits per sub-pixel" in first
    assert all(word in details for word in ("photo", f"{rgb['calls']} network calls", "encode", "verify"))


def test_decompress_beside_the_source(folder):
    (folder / "rgb.png").unlink()
    (folder / "gray.png").unlink()
    done = run("decompress", "rgb.ardm", "gray.ardm", "-q", cwd=folder)
    assert (done.returncode, done.stderr, done.stdout) == (0, [], b"")
    assert pixels(folder / "rgb.png") == RGB
    assert pixels(folder / "gray.png") == GRAY
    assert sorted(os.listdir(folder)) == ["gray.ardm", "gray.png", "rgb.ardm", "rgb.png"]


def test_decompress_to_another_format_with_json(folder):
    done = run("decompress", "rgb.ardm", "-o", "out.TIF", "--json", cwd=folder)
    assert done.returncode == 0
    assert pixels(folder / "out.TIF") == RGB
    report = json.loads(done.stdout)
    assert (report["input"], report["output"]) == ("rgb.ardm", "out.TIF")
    assert report["output_bytes"] == (folder / "out.TIF").stat().st_size


def test_output_folder_steps_and_no_verify(folder):
    (folder / "out").mkdir()
    args = ("-m", "photo", "--steps", "6", "--no-verify", "-v")
    done = run("compress", "rgb.png", "gray.png", "-o", "out", *args, cwd=folder)
    assert done.returncode == 0
    assert "not verified" in done.stderr[1]
    assert sorted(os.listdir(folder / "out")) == ["gray.ardm", "rgb.ardm"]
    assert len(unpack((folder / "out" / "rgb.ardm").read_bytes()).call_starts) <= 6
    done = run("decompress", "rgb.ardm", "gray.ardm", "-o", "../", "-q", "--continue-on-error", cwd=folder / "out")
    assert done.returncode == 1  # the originals are there
    assert [line.split(": ")[1] for line in done.stderr] == ["rgb.ardm", "gray.ardm"]
    done = run("decompress", "rgb.ardm", "gray.ardm", "-o", "../", "-f", cwd=folder / "out")
    assert done.returncode == 0
    assert (pixels(folder / "rgb.png"), pixels(folder / "gray.png")) == (RGB, GRAY)


def test_stdin_and_stdout(folder, packed):
    data = run("compress", "-m", "photo", "-", cwd=folder, stdin=(folder / "rgb.png").read_bytes())
    assert data.stdout == packed["files"]["rgb.ardm"]
    assert data.stderr[0].startswith("stdin -> stdout  ")
    image = run("decompress", "-c", "rgb.ardm", cwd=folder)
    assert pixels(io.BytesIO(image.stdout)) == RGB
    info = run("info", "-", "--json", cwd=folder, stdin=data.stdout)
    assert json.loads(info.stdout)["input"] == "-"
    assert listing(folder) == packed["files"]


def test_rm_removes_the_source_once_all_is_done(folder, packed):
    (folder / "rgb.ardm").unlink()
    done = run("compress", "--rm", "rgb.png", "gray.png", "-m", "photo", cwd=folder)
    assert done.returncode == 1  # gray.ardm is there already, so gray.png must stay
    assert sorted(os.listdir(folder)) == ["gray.ardm", "gray.png", "rgb.ardm"]
    assert (folder / "rgb.ardm").read_bytes() == packed["files"]["rgb.ardm"]
    done = run("decompress", "--rm", "gray.ardm", "-o", "gray.webp", cwd=folder)
    assert done.returncode == 0
    assert sorted(os.listdir(folder)) == ["gray.png", "gray.webp", "rgb.ardm"]


def test_test_writes_nothing(folder):
    (folder / "bad.ardm").write_bytes(b"something else")
    before = listing(folder)
    done = run("test", "rgb.ardm", "bad.ardm", "nowhere.ardm", "gray.ardm", "--continue-on-error", cwd=folder)
    assert done.returncode == 1
    assert done.stderr[0].startswith("rgb.ardm  ok  ")
    assert done.stderr[1] == "ardmzip: bad.ardm: not an .ardm file: wrong magic"
    assert done.stderr[2] == "ardmzip: nowhere.ardm: No such file or directory"
    assert done.stderr[3].startswith("gray.ardm  ok  ")
    assert listing(folder) == before


def test_goes_on_after_a_failure(images):
    done = run("compress", "nowhere.png", "rgb.png", "--continue-on-error", cwd=images)
    assert done.returncode == 1
    assert done.stderr[0] == "ardmzip: nowhere.png: No such file or directory"
    assert done.stderr[1].startswith("rgb.png -> rgb.ardm  ")
    assert done.stderr[2].startswith("2 files: 1 done, 1 failed  ")
    assert len(done.stderr) == 3


# Pixel formats, metadata, JPEG


def test_formats_through_the_command_line(tmp_path):
    import imagecodecs

    deep = np.random.default_rng(0).integers(0, 65536, (12, 10, 4), np.uint16)
    (tmp_path / "deep.png").write_bytes(imagecodecs.png_encode(deep))
    palette = picture(3).quantize(7)
    palette.save(tmp_path / "palette.png", bits=4, transparency=b"\x01\x02")
    exif = Image.Exif()
    exif[0x0112] = 6
    picture(3).convert("RGBA").save(tmp_path / "rgba.png", exif=exif, dpi=(300, 300))
    names = ["deep", "palette", "rgba"]
    done = run("compress", *(f"{name}.png" for name in names), "--json", "-v", cwd=tmp_path)
    assert done.returncode == 0
    reports = {report["input"][:-4]: report for report in map(json.loads, done.stdout.splitlines())}
    assert [reports[name]["layout"] for name in names] == ["RGB+alpha", "palette", "RGB+alpha"]
    assert [reports[name]["depth"] for name in names] == [16, 4, 8]
    assert [reports[name]["raw_bytes"] for name in names] == [960, WIDTH * HEIGHT // 2, 4 * WIDTH * HEIGHT]
    assert reports["palette"]["model"] is None
    assert reports["palette"]["calls"] == 0
    assert any("16-bit RGB+alpha" in line for line in done.stderr)

    run("decompress", *(f"{name}.ardm" for name in names), "-o", ".", "-f", "--rm", cwd=tmp_path)
    np.testing.assert_array_equal(imagecodecs.png_decode((tmp_path / "deep.png").read_bytes()), deep)
    assert (tmp_path / "palette.png").read_bytes()[24:26] == b"\x04\x03"  # depth and colour type
    with Image.open(tmp_path / "palette.png") as restored:
        assert restored.tobytes() == palette.tobytes()
        assert restored.getpalette() == palette.getpalette()
        assert restored.info["transparency"] == b"\x01\x02"
    with Image.open(tmp_path / "rgba.png") as restored:
        assert restored.getexif()[0x0112] == 6
        assert restored.info["dpi"] == pytest.approx((300, 300), abs=0.01)
    assert sorted(os.listdir(tmp_path)) == sorted(f"{name}.png" for name in names)


def test_strip_and_what_a_format_cannot_hold(images):
    exif = Image.Exif()
    exif[0x010E] = "description"
    picture(3).save(images / "exif.png", exif=exif)
    assert len(run("compress", "exif.png", cwd=images).stderr) == 1
    info = run("info", "exif.ardm", "--json", cwd=images)
    assert json.loads(info.stdout)["metadata"] == ["EXIF data"]
    assert b"metadata   EXIF data" in run("info", "exif.ardm", cwd=images).stdout
    done = run("decompress", "exif.ardm", "-o", "x.ppm", cwd=images)
    assert done.stderr[1:] == ["ardmzip: exif.ardm: note: a .ppm file does not hold: EXIF data"]
    assert len(run("decompress", "exif.ardm", "-o", "x.tif", cwd=images).stderr) == 1
    run("compress", "--strip", "exif.png", "-o", "bare.ardm", cwd=images)
    assert json.loads(run("info", "bare.ardm", "--json", cwd=images).stdout)["metadata"] == []


def test_jpeg_only_by_force(images):
    picture(3).save(images / "photo.jpg", quality=90)
    shutil.copy(images / "photo.jpg", images / "photo2.png")
    before = listing(images)
    for name in ("photo.jpg", "photo2.png"):
        assert "--force-jpeg" in refused(run("compress", name, cwd=images), 1)
    assert listing(images) == before
    assert run("compress", "--force-jpeg", "photo.jpg", cwd=images).returncode == 0
    assert run("decompress", "photo.ardm", cwd=images).returncode == 0
    assert pixels(images / "photo.png") == pixels(images / "photo.jpg")


def test_pixels_that_a_format_cannot_hold(images):
    picture(3).convert("RGBA").save(images / "alpha.png")
    run("compress", "alpha.png", cwd=images)
    assert "cannot hold RGB+alpha" in refused(run("decompress", "alpha.ardm", "-o", "x.ppm", cwd=images), 1)
    assert not (images / "x.ppm").exists()


# Info


def test_info_of_stored_samples(images):
    Image.new("RGB", (300, 200), (1, 2, 3)).save(images / "flat.png")
    assert run("compress", "flat.png", cwd=images).returncode == 0
    report = json.loads(run("info", "flat.ardm", "--json", cwd=images).stdout)
    assert report["bytes"] == report["header_bytes"] + report["stored_bytes"] < 100
    assert (report["model"], report["calls"], report["streams"]) == (None, 0, 0)
    text = run("info", "flat.ardm", cwd=images).stdout.decode()
    assert report["coding"] in text
    assert "network calls" not in text
    assert imported(["decompress", "flat.ardm", "-f", "-q"], images) == ["PIL"]


def test_info_adds_up(packed):
    done = run("info", "rgb.ardm", "gray.ardm", "--json", cwd=packed["folder"])
    rgb, gray = map(json.loads, done.stdout.splitlines())
    data = packed["files"]["rgb.ardm"]
    assert rgb["bytes"] == len(data) == rgb["header_bytes"] + rgb["side_info_bytes"] + rgb["stream_bytes"]
    assert (rgb["width"], rgb["height"], rgb["channels"], gray["channels"]) == (WIDTH, HEIGHT, 3, 1)
    assert rgb["model"] == "photo"
    assert rgb["pixel_crc32"] is rgb["file_crc32"] is None  # a short file has one for both
    text = run("info", "rgb.ardm", cwd=packed["folder"]).stdout.decode()
    assert text.startswith("rgb.ardm\n")
    assert all(str(rgb[key]) in text for key in ("bytes", "model", "model_id", "calls", "stream_bytes"))


def test_info_of_an_unknown_model_and_of_a_bad_file(folder):
    c = unpack((folder / "rgb.ardm").read_bytes())
    (folder / "other.ardm").write_bytes(pack(replaced(c, model_id=b"\1\2")))
    (folder / "cut.ardm").write_bytes(pack(replaced(c, short=False, model_id=bytes(4), metadata=b"\1\1x"))[:-1])
    done = run("info", "other.ardm", "cut.ardm", "rgb.png", "--continue-on-error", cwd=folder)
    assert done.returncode == 1
    assert b"not installed (0102)" in done.stdout
    assert done.stderr == [
        "ardmzip: cut.ardm: damaged or truncated: file checksum does not match",
        "ardmzip: rgb.png: not an .ardm file: wrong magic",
    ]


# Damaged files


def replaced(container, **changes):
    from dataclasses import replace

    return replace(container, **changes)


def with_checksum(body: bytes) -> bytes:
    return body + zlib.crc32(body).to_bytes(4, "little")


def test_damage_anywhere_is_one_line_and_no_output(folder, packed):
    good = packed["files"]["gray.ardm"]
    files = {"empty": b"", "long": good + b"\0"}
    files |= {f"cut{i}": good[:i] for i in range(1, len(good), 5)}
    files |= {f"flip{i}": good[:i] + bytes([good[i] ^ 1 << i % 8]) + good[i + 1 :] for i in range(len(good))}
    for name, data in files.items():
        (folder / f"{name}.ardm").write_bytes(data)
    before = listing(folder)
    for command in ("decompress", "test"):
        done = run(command, "-q", "--continue-on-error", *(f"{name}.ardm" for name in files), cwd=folder)
        assert done.returncode == 1
        assert [line.split(": ")[:2] for line in done.stderr] == [["ardmzip", f"{name}.ardm"] for name in files]
        assert listing(folder) == before


def test_files_that_are_well_formed_but_wrong(folder, packed):
    """Their checksums are right, so nothing but the decoder can notice."""
    good = packed["files"]["rgb.ardm"]
    c = unpack(good)
    words = c.segments[0].copy()
    words[len(words) // 2] ^= 1
    long = pack(replaced(c, short=False, model_id=bytes(4), metadata=b"\1\1x"))
    (folder / "version.ardm").write_bytes(with_checksum(long[:4] + b"\2" + long[5:-4]))
    (folder / "flags.ardm").write_bytes(with_checksum(long[:5] + b"\x80" + long[6:-4]))
    (folder / "model.ardm").write_bytes(pack(replaced(c, model_id=b"\1\2")))
    (folder / "crc.ardm").write_bytes(pack(replaced(c, pixel_crc=c.pixel_crc ^ 1)))
    (folder / "size.ardm").write_bytes(pack(replaced(c, width=c.width + 2)))
    (folder / "side.ardm").write_bytes(pack(replaced(c, short=False, model_id=c.model_id + b"xx", side_info=b"123")))
    (folder / "word.ardm").write_bytes(pack(replaced(c, segments=(words,))))
    (folder / "short.ardm").write_bytes(pack(replaced(c, segments=(words[: len(words) // 2],))))
    (folder / "none.ardm").write_bytes(pack(replaced(c, segments=(words[:0],))))
    names = ["version", "flags", "model", "crc", "size", "side", "word", "short", "none"]
    before = listing(folder)
    done = run("decompress", "-q", "--continue-on-error", *(f"{name}.ardm" for name in names), cwd=folder)
    assert done.returncode == 1
    lines = {line.split(": ")[1]: line for line in done.stderr}
    assert list(lines) == [f"{name}.ardm" for name in names]
    assert len(done.stderr) == len(names)
    assert "unknown .ardm version 2" in lines["version.ardm"]
    assert "newer ardmzip" in lines["flags.ardm"]
    assert "model 0102," in lines["model.ardm"]
    assert listing(folder) == before


# Images that cannot be stored


def test_unsupported_images_are_one_line_each(tmp_path):
    rgb = picture(3)
    rgb.convert("CMYK").save(tmp_path / "cmyk.tif")
    rgb.convert("F").save(tmp_path / "float.tif")
    rgb.convert("I").save(tmp_path / "long.tif")
    rgb.convert("LAB").save(tmp_path / "lab.tif")
    rgb.save(tmp_path / "pages.tif", save_all=True, append_images=[picture(3)])
    rgb.save(tmp_path / "animated.webp", save_all=True, append_images=[picture(1).convert("RGB")])
    rgb.save(tmp_path / "frames.gif", save_all=True, append_images=[picture(1)])
    rgb.save(tmp_path / "apng.png", save_all=True, append_images=[picture(1).convert("RGB")])
    rgb.save(tmp_path / "photo.jpg")
    shutil.copy(tmp_path / "photo.jpg", tmp_path / "disguise.png")
    (tmp_path / "levels.ppm").write_bytes(b"P6 2 1 100\n" + bytes(6))
    rgb.save(tmp_path / "cut.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:200])
    (tmp_path / "text.png").write_text("this is no image")
    (tmp_path / "empty.png").touch()
    (tmp_path / "ardm.png").write_bytes(b"\x9aARD\x01")
    before = listing(tmp_path)
    (tmp_path / "folder.png").mkdir()
    names = sorted(os.listdir(tmp_path))
    (tmp_path / "out").mkdir()
    done = run("compress", "-q", "--continue-on-error", *names, "-o", "out", cwd=tmp_path)
    assert done.returncode == 1
    assert [line.split(": ")[1] for line in done.stderr] == names, done.stderr
    assert all(len(line.split(": ", 2)[2]) > 5 for line in done.stderr)
    told = dict(zip(names, done.stderr, strict=True))
    assert all("several frames" in told[name] for name in ("pages.tif", "animated.webp", "frames.gif", "apng.png"))
    assert all("--force-jpeg" in told[name] for name in ("photo.jpg", "disguise.png"))
    assert listing(tmp_path) == before


# Refusals before anything is done


def refused(done: subprocess.CompletedProcess, code: int = 2) -> str:
    assert done.returncode == code
    assert done.stdout == b""
    (line,) = done.stderr
    assert line.startswith("ardmzip: ")
    return line


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["squeeze"], "No such command"),
        (["compress"], "Missing argument"),
        (["compress", "--no-such-option", "rgb.png"], "No such option"),
        (["compress", "--steps", "0", "rgb.png"], "--steps"),
        (["compress", "--rm", "--no-verify", "rgb.png"], "--no-verify"),
        (["compress", "rgb.png", "rgb.jpg"], "both be written to rgb.ardm"),
        (["compress", "rgb.png", "./rgb.png"], "both be written to rgb.ardm"),
        (["compress", "rgb.png", "gray.png", "-o", "one.ardm"], "existing folder"),
        (["compress", "rgb.png", "gray.png", "-c"], "only one file"),
        (["compress", "rgb.png", "-o", "nowhere/"], "no folder nowhere/"),
        (["compress", "rgb.png", "-o", "rgb.png"], "which is an input"),
        (["compress", "-f", "a.ardm"], "which is an input"),
        (["compress", "rgb.png", "-c", "-o", "x.ardm"], "choose one"),
        (["compress", "rgb.png", "-c", "--json"], "--json"),
        (["compress", "rgb.png", "-c", "--rm"], "--rm"),
        (["compress", "-", "-", "-o", "."], "twice"),
        (["compress", "-", "-o", "."], "stdin has no name"),
        (["compress", "."], "is a folder (-r takes"),
        (["decompress", "a.ardm", "-o", "a.jpg"], "does not write .jpg"),
        (["decompress", "a.ardm", "-o", "a"], "no suffix"),
        (["decompress", "a.ardm", "rgb.png", "-f"], "which is an input"),
        (["schedule", "--size", "0x5"], "not a size"),
        (["schedule", "--plot", "cut.txt"], ".svg"),
    ],
)
def test_wrong_usage_is_one_line(images, args, expected):
    if args == ["decompress", "a.ardm", "rgb.png", "-f"]:  # a.ardm would overwrite the second input
        args = ["decompress", "rgb.ardm", "rgb.png", "-f"]
    before = listing(images)
    assert expected in refused(run(*args, cwd=images))
    assert listing(images) == before


def test_no_silent_overwrite(images):
    (images / "rgb.ardm").write_bytes(b"precious")
    before = listing(images)
    line = refused(run("compress", "rgb.png", cwd=images), 1)
    assert line == "ardmzip: rgb.png: rgb.ardm exists already (-f overwrites it)"
    line = refused(run("decompress", "rgb.ardm", cwd=images), 1)
    assert line == "ardmzip: rgb.ardm: rgb.png exists already (-f overwrites it)"
    line = refused(run("compress", "rgb.tif", cwd=images), 1)  # of which there is an output, but no input
    assert line == "ardmzip: rgb.tif: No such file or directory"
    assert listing(images) == before


def test_failed_overwrite_keeps_the_old_file(images):
    (images / "x.ardm").write_bytes(b"no image")
    before = listing(images)
    refused(run("decompress", "-f", "x.ardm", "-o", "rgb.png", cwd=images), 1)
    refused(run("compress", "-f", "x.ardm", "-o", "y.ardm", cwd=images), 1)
    assert listing(images) == before


def test_missing_folder_and_odd_names_are_one_line(images):
    assert "there is no folder" in refused(run("compress", "rgb.png", "-o", "nowhere/x.ardm", cwd=images), 1)
    assert refused(run("info", "two\nlines\x1b[31m", cwd=images), 1).startswith("ardmzip: two?lines?[31m: No such file")


def test_unknown_model(images):
    before = listing(images)
    assert "unknown model: nonsense" in refused(run("compress", "-m", "nonsense", "rgb.png", cwd=images))
    assert "unknown model: nonsense" in refused(run("schedule", "-m", "nonsense", cwd=images))
    (images / "bad.safetensors").write_bytes(b"no model at all")
    assert "not a model file" in refused(run("schedule", "-m", "bad.safetensors", cwd=images))
    (images / "bad.safetensors").unlink()
    assert listing(images) == before


@pytest.mark.skipif(sys.platform == "win32", reason="needs pseudo terminals")
def test_no_binary_data_to_a_terminal(images):
    import pty

    ours, theirs = pty.openpty()
    try:
        process = start("compress", "-c", "rgb.png", cwd=images, stdout=theirs, stderr=subprocess.PIPE)
        _, stderr = process.communicate(timeout=60)
    finally:
        os.close(ours)
        os.close(theirs)
    assert process.returncode == 2
    assert b"not written to a terminal" in stderr


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGINT")
def test_interrupt(images):
    before = listing(images)
    process = start(
        "compress", "-", "-o", "x.ardm", cwd=images, stdin=subprocess.PIPE, stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # background jobs inherit that it is ignored
    )  # fmt: skip
    time.sleep(1.0)  # it waits for its input now; earlier, Python itself would print a traceback
    process.send_signal(signal.SIGINT)
    process.wait(timeout=60)
    with process.stdin, process.stderr:
        assert process.stderr.read() == b"ardmzip: stdin: interrupted\n"
    assert process.returncode == 130
    assert listing(images) == before


# Schedule, models, train


def test_schedule_prints_the_cut(tmp_path):
    done = run("schedule", "--steps", "9", "--size", "40x30", cwd=tmp_path)
    assert done.returncode == 0
    lines = done.stdout.decode().splitlines()
    assert "40 x 30 RGB: 54 atoms in 6 levels" in lines[0]
    assert len([line for line in lines if line.split()[:1] in [[str(level)] for level in range(6)]]) == 6
    calls, expected, optimum = (line.split()[-1 if i == 0 else 1] for i, line in enumerate(lines[-3:]))
    assert int(calls) == 9
    assert float(expected) >= float(optimum) > 0


def test_schedule_of_the_optimum_of_an_image_and_of_one_pixel(images):
    done = run("schedule", "--image", "gray.png", cwd=images)
    assert f"{WIDTH} x {HEIGHT} gray: 15 atoms" in done.stdout.decode()
    assert "this cut, +0.00 %" in done.stdout.decode()
    done = run("schedule", "--size", "1x1", cwd=images)
    assert done.returncode == 0
    assert "needs no network call" in done.stdout.decode()


def test_schedule_plot(tmp_path):
    pytest.importorskip("matplotlib", reason="matplotlib (extra bench) is not installed")
    args = ("schedule", "--gray", "--size", "20x20", "--plot", "cut.png")
    done = run(*args, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, ["plot -> cut.png"])
    with Image.open(tmp_path / "cut.png") as plot:
        assert plot.width > 400
    assert "exists already" in run(*args, cwd=tmp_path).stderr[0]
    assert run(*args, "-f", cwd=tmp_path).returncode == 0
    assert os.listdir(tmp_path) == ["cut.png"]


def test_schedule_plot_without_matplotlib(tmp_path):
    code = (
        "import sys; sys.modules['matplotlib'] = None\nfrom ardmzip.cli import main\n"
        "main(['schedule', '--size', '9x9', '--plot', 'cut.png'])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment(), capture_output=True)
    assert done.returncode == 1
    assert done.stderr.decode() == "ardmzip: photo: a plot needs matplotlib: pip install 'ardmzip[bench]'\n"
    assert os.listdir(tmp_path) == []


def test_models(tmp_path):
    done = run("models", "--json", cwd=tmp_path)
    found = {entry["name"]: entry for entry in map(json.loads, done.stdout.splitlines())}
    assert found["photo"]["id"] == model.load("photo").id.hex()
    text = run("models", cwd=tmp_path).stdout.decode()
    assert f"photo  id {found['photo']['id']}" in text


def test_train_refuses_a_bad_configuration(tmp_path):
    (tmp_path / "bad.toml").write_text("nonsense = 1\n")
    assert "nonsense" in refused(run("train", "bad.toml", cwd=tmp_path), 1)
    assert refused(run("train", "nowhere.toml", cwd=tmp_path), 1).startswith("ardmzip: nowhere.toml: ")
    assert os.listdir(tmp_path) == ["bad.toml"]


@pytest.mark.parametrize("finished", [True, False])
def test_train_exports_a_finished_run(tmp_path, monkeypatch, capsys, finished):
    from types import SimpleNamespace

    from ardmzip.cli import main
    from ardmzip.training import export, train

    def fake(config, folder, stop_after):
        calls.append((config.name, folder, stop_after))
        return SimpleNamespace(finished=finished)

    calls = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(train, "train", fake)
    monkeypatch.setattr(export, "export", lambda run, path: calls.append(path) or {"validation": {"bits": 2.5}})
    Path("x.toml").write_text('name = "x"\ndata = ["images"]\n')
    with pytest.raises(SystemExit) as done:
        main(["train", "x.toml", "--stop-after", "3"])
    assert done.value.code == 0
    assert calls == [("x", Path("runs/x"), 3.0), Path("runs/x/x.safetensors")][: 1 + finished]
    assert ("x.safetensors: " in capsys.readouterr().err) == finished


# Parts


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("stream", "quiet", "after", "shown"),
    [(Terminal, False, 0.0, True), (Terminal, False, 60.0, False), (Terminal, True, 0.0, False),
     (io.StringIO, False, 0.0, False)],
)  # fmt: skip
def test_progress_bar(monkeypatch, stream, quiet, after, shown):
    stderr = stream()
    monkeypatch.setattr(sys, "stderr", stderr)
    monkeypatch.setattr(_progress, "_AFTER", after)
    with _progress.Bar("name[red].png", quiet) as bar:
        bar(0.25)
        assert bar.half is None
        bar(0.5)
        bar(1.0)
    assert bar.half is not None
    assert bool(stderr.getvalue()) == shown
    assert ("name[red].png" in stderr.getvalue()) == shown


def test_expected_errors_have_a_line_and_bugs_have_none():
    class OutOfMemoryError(RuntimeError):  # as torch.cuda names it
        pass

    assert _common.describe(ArdmError("line")) == "line"
    assert _common.describe(MemoryError()) == "not enough memory"
    assert _common.describe(OutOfMemoryError("CUDA out of memory. Tried ...")) == "not enough memory"
    assert _common.describe(RuntimeError("DefaultCPUAllocator: can't allocate memory")) == "not enough memory"
    assert _common.describe(FileNotFoundError(2, "No such file", "a"), "a") == "No such file"
    assert _common.describe(FileNotFoundError(2, "No such file", "b"), "a") == "No such file: b"
    assert _common.describe(RuntimeError("a bug")) is None


def test_a_bug_is_not_hidden():
    def work():
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        _common.attempt("file", work)
