"""Paths, patterns and URLs."""

from __future__ import annotations

import sys
import zipfile
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import fsspec
import numpy as np
import pytest

from ardmzip.errors import ImageError
from ardmzip.sources import open_source, open_sources, places


@pytest.fixture
def memory():
    """fsspec's file system in memory."""
    system = fsspec.filesystem("memory")
    yield system
    system.store.clear()
    system.pseudo_dirs[:] = [""]


def test_urls(memory, png, pixels, content, tmp_path):
    memory.pipe("/set/b/1.png", png(1))
    memory.pipe("/set/a/2.png", png(2))
    found = content(open_source("memory://set"))
    assert {name: label for name, (label, _, _) in found.items()} == {"a/2.png": "a", "b/1.png": "b"}
    np.testing.assert_array_equal(found["a/2.png"][2], pixels(2))
    assert list(content(open_source("memory://set/b/1.png"))) == ["1.png"]
    assert list(content(open_source("memory://set/*/*.png"))) == ["2.png", "1.png"]
    (tmp_path / "3.png").write_bytes(png(3))
    assert len(content(open_sources(["memory://set", str(tmp_path / "3.png")]))) == 3


def test_a_server(tmp_path, png, write_tar, content):
    pytest.importorskip("aiohttp", reason="fsspec's http needs aiohttp (pip install 'ardmzip[datasets]')")

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_arguments: object) -> None:
            pass

    (tmp_path / "a.png").write_bytes(png(1))
    write_tar(tmp_path / "s.tar", {"b.png": png(2), "b.cls": b"1"})
    np.save(tmp_path / "x.npy", np.zeros((2, 5, 5), np.uint8))
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path)))
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        for name, items in (("a.png", ["a.png"]), ("s.tar", ["b.png"]), ("x.npy", ["0.png", "1.png"])):
            assert list(content(open_source(f"http://127.0.0.1:{server.server_port}/{name}"))) == items
        with pytest.raises(ImageError, match=r"/nothing\.png: No such file"):
            next(iter(open_source(f"http://127.0.0.1:{server.server_port}/nothing.png"))).image()
    finally:
        server.shutdown()
        server.server_close()


def test_chained_urls(tmp_path, png, content):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("set/a.png", png(1))
        archive.writestr("set/b.png", png(2))
    for place in (f"zip://set::{tmp_path}/x.zip", f"zip://set/*.png::{tmp_path}/x.zip"):
        assert list(content(open_source(place))) == ["a.png", "b.png"]


def test_tables_and_arrays_at_urls(memory, content, pixels):
    pyarrow = pytest.importorskip("pyarrow")
    import io

    from pyarrow import parquet

    array = np.stack([pixels(i) for i in range(3)])
    file = io.BytesIO()
    np.save(file, array)
    memory.pipe("/d/x.npy", file.getvalue())
    np.savez(file := io.BytesIO(), images=array, labels=np.arange(3))
    memory.pipe("/d/y.npz", file.getvalue())
    file = io.BytesIO()
    parquet.write_table(pyarrow.table({"image": [{"bytes": b"x", "path": None}]}), file)
    memory.pipe("/d/z.parquet", file.getvalue())
    assert list(content(open_source("memory://d/x.npy"))) == ["0.png", "1.png", "2.png"]
    assert [label for label, _, _ in content(open_source("memory://d/y.npz")).values()] == [0, 1, 2]
    assert [item.name for item in open_source("memory://d")][-1] == "z/0"


@pytest.mark.parametrize(
    ("place", "text"),
    [("nonesuch://x", "nonesuch"), ("memory://nothing", "memory://nothing: "), ("x-{9..1}.tar", "no range of numbers"),
     ("memory://nothing/*.png", "no such file or folder")],
)  # fmt: skip
def test_places_that_are_none(place, text):
    with pytest.raises(ImageError, match=text):
        open_source(place)


def test_ranges():
    assert places.expand("x-{3..5}-{0..1}.tar") == [f"x-{i}-{j}.tar" for i in (3, 4, 5) for j in (0, 1)]
    assert places.expand("x-{098..101}.tar") == ["x-098.tar", "x-099.tar", "x-100.tar", "x-101.tar"]
    with pytest.raises(ImageError, match=r"x-1\.tar: No such file"):
        open_source("x-{1..2}.tar")


def test_a_name_that_looks_like_a_pattern(tmp_path, png):
    (tmp_path / "a*{1..2}.png").write_bytes(png(1))
    assert [item.name for item in open_source(str(tmp_path / "a*{1..2}.png"))] == ["a*{1..2}.png"]


def test_paths_need_no_fsspec(tmp_path, png, monkeypatch):
    (tmp_path / "a.png").write_bytes(png(1))
    monkeypatch.setitem(sys.modules, "fsspec", None)
    assert next(iter(open_source(str(tmp_path)))).image().width == 5
    with pytest.raises(ImageError, match=r"URLs need fsspec: pip install 'ardmzip\[datasets\]'"):
        open_source("memory://x")
