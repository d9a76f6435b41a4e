"""Image files, and folders of them."""

from __future__ import annotations

import numpy as np
import pytest

from ardmzip.errors import ImageError
from ardmzip.sources import open_source, open_sources
from ardmzip.sources.folders import layout


@pytest.fixture
def tree(tmp_path, png):
    def make(*names: str):
        for i, name in enumerate(names):
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(png(i))
        return str(tmp_path)

    return make


@pytest.mark.parametrize(
    ("names", "labels"),
    [
        (["b/1.png", "a/2.png", "a/10.PNG"], {"a/10.PNG": "a", "a/2.png": "a", "b/1.png": "b"}),
        (["train/b/1.png", "test/a/1.png"], {"test/a/1.png": "a", "train/b/1.png": "b"}),
        (["x.png", "a/1.png"], {"x.png": None, "a/1.png": None}),
        (["2024/05/1.png", "2023/1.png"], {"2023/1.png": None, "2024/05/1.png": None}),
        (["test/1.png", "train/1.png"], {"test/1.png": None, "train/1.png": None}),
    ],
    ids=["classes", "splits and classes", "flat", "tree", "splits"],
)
def test_labels_and_order(tree, content, pixels, names, labels):
    found = content(open_source(tree(*names)))
    assert {name: label for name, (label, _, _) in found.items()} == labels
    assert list(found) == list(labels), "in the order of names, the files of a folder first"
    for i, name in enumerate(names):
        np.testing.assert_array_equal(found[name][2], pixels(i))


def test_images_are_read_when_they_are_asked_for(tree, tmp_path):
    folder = tree("a.png", "b.png")
    (tmp_path / "b.png").write_bytes(b"no image")
    (tmp_path / "readme.txt").write_text("text")
    one, two = open_source(folder)
    assert one.image().width == 5
    with pytest.raises(ImageError, match=r"b\.png: not an image"):
        two.image()
    (tmp_path / "a.png").unlink()
    with pytest.raises(ImageError, match=r"a\.png: No such file"):
        one.image()


def test_links(tree, tmp_path):
    """Links to files are followed, those to folders are not; one that leads nowhere is told of when it is read."""
    folder = tree("a/1.png")
    (tmp_path / "a/2.png").symlink_to(tmp_path / "a/1.png")
    (tmp_path / "a/3.png").symlink_to(tmp_path / "nowhere.png")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    items = list(open_source(folder))
    assert [item.name for item in items] == ["a/1.png", "a/2.png", "a/3.png"]
    with pytest.raises(ImageError, match=r"3\.png: No such file"):
        items[2].image()


def test_jpeg_only_when_it_is_forced(tmp_path, png):
    (tmp_path / "a.jpg").write_bytes(png(1, "JPEG"))
    with pytest.raises(ImageError, match=r"a\.jpg: JPEG files are lossy"):
        next(iter(open_source(str(tmp_path)))).image()
    assert next(iter(open_source(str(tmp_path), force_jpeg=True))).image().height == 6


def test_limit_of_pixels(tree):
    with pytest.raises(ImageError, match=r"a\.png: the image is over the limit of 29 pixels"):
        next(iter(open_source(tree("a.png"), max_pixels=29))).image()


def test_files(tree, tmp_path, content):
    """A file is named by its own name; if several have the same, by their paths below the folder that they share."""
    tree("x/a.png", "x/y/a.png", "x/z.png")
    assert list(content(open_source(str(tmp_path / "x/y/a.png")))) == ["a.png"]
    paths = [str(tmp_path / name) for name in ("x/z.png", "x/a.png", "x/y/a.png", "x/a.png")]
    assert list(content(open_sources(paths))) == ["a.png", "y/a.png", "z.png"]
    assert list(content(open_source(f"{tmp_path}/x/*.png"))) == ["a.png", "z.png"]
    assert list(content(open_sources([paths[0], paths[2]]))) == ["a.png", "z.png"]
    assert list(content(open_sources([str(tmp_path / "x/y"), paths[0]]))) == ["y/a.png", "z.png"]


def test_nothing_there(tmp_path):
    with pytest.raises(ImageError, match="missing: No such file"):
        open_source(str(tmp_path / "missing"))
    with pytest.raises(ImageError, match="there are no images in it"):
        open_source(str(tmp_path))
    with pytest.raises(ImageError, match=r"\*\.png: no such file"):
        open_source(f"{tmp_path}/*.png")
    with pytest.raises(ImageError, match="no paths are given"):
        open_sources([])


def test_a_folder_that_changes(tree, tmp_path, png):
    source = open_source(tree("a/1.png"))
    (tmp_path / "0.png").write_bytes(png(1))
    with pytest.raises(ImageError, match=r"0\.png: came after"):
        list(source)


def test_many_names_are_not_kept(tmp_path):
    """Thousands of files in folders: layout and items come by one after the other."""
    for i in range(40):
        (tmp_path / f"{i:02}").mkdir()
        for j in range(10):
            (tmp_path / f"{i:02}" / f"{j}.png").touch()
    assert layout(str(tmp_path)).count == 400
    names = [item.name for item in open_source(str(tmp_path))]
    assert names == sorted(names)
    assert len(names) == 400
