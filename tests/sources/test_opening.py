"""What holds for all sources together: files by suffix, mixtures, and memory."""

from __future__ import annotations

import gc
import tracemalloc

import numpy as np
import pytest

from ardmzip.errors import ImageError
from ardmzip.sources import Item, open_source, open_sources
from ardmzip.sources.opening import READERS


def test_a_mixture(tmp_path, content, png, write_tar):
    """Items of several places are below folders named after them, and in the order of names."""
    (tmp_path / "a").mkdir()
    (tmp_path / "a/1.png").write_bytes(png(1))
    np.save(tmp_path / "b.npy", np.zeros((2, 5, 5), np.uint8))
    write_tar(tmp_path / "c.tar.gz", {"x/1.png": png(2)}, "w:gz")
    (tmp_path / "d.png").write_bytes(png(3))
    paths = [str(tmp_path / name) for name in ("d.png", "c.tar.gz", "b.npy", "a")]
    assert list(content(open_sources(paths))) == ["a/1.png", "b/0.png", "b/1.png", "c/x/1.png", "d.png"]


def test_images_hide_the_dataset_files_beside_them(tmp_path, content, png):
    (tmp_path / "1.png").write_bytes(png(1))
    np.save(tmp_path / "labels.npy", np.zeros(3))
    assert list(content(open_source(str(tmp_path)))) == ["1.png"]


def test_a_new_kind_of_file_needs_one_line(tmp_path, monkeypatch):
    monkeypatch.setitem(READERS, ".kind", lambda place, options: [place, options.max_pixels])
    (tmp_path / "x.kind").touch()
    assert open_source(str(tmp_path / "x.kind"), max_pixels=7) == [str(tmp_path / "x.kind"), 7]


def test_names_are_relative():
    for name in ("../x", "/x", "x/../y", "", "a\0", "\udcff.png"):
        with pytest.raises(ImageError, match="is no name for an image"):
            Item(name, None, None, lambda: None)


@pytest.mark.parametrize("kind", ["npy", "npz", "bin", "tar", "parquet"])
def test_memory_does_not_grow(tmp_path, kind, write_tar):
    """Ten times as many images take no more memory."""

    def peak(count: int) -> int:
        array, path = np.zeros((count, 32, 32, 3), np.uint8), tmp_path / f"{count}.{kind}"
        if kind == "npy":
            np.save(path, array)
        elif kind == "npz":
            np.savez_compressed(path, images=array, labels=np.arange(count))
        elif kind == "bin":
            path.write_bytes(bytes(3073 * count))
        elif kind == "tar":
            write_tar(path, {f"{i:06}.png": b"x" for i in range(count)})
        else:
            pyarrow = pytest.importorskip("pyarrow")
            from pyarrow import parquet

            parquet.write_table(pyarrow.table({"image": [i.to_bytes(3000, "little") for i in range(count)]}), path)
        source = open_source(str(path))
        next(iter(source))  # imports
        gc.freeze()  # or what other tests have left decides how often garbage is collected
        gc.collect()
        tracemalloc.start()
        try:
            assert sum(1 for _ in source) == count
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
            gc.unfreeze()

    assert peak(2000) < peak(200) + 1_000_000
