"""Archives as sources of others."""

import pickle

import numpy as np
import pytest
from PIL import Image

import ardmzip
from ardmzip.archive.writer import Writer
from ardmzip.errors import ImageError
from ardmzip.sources import open_source


def test_items_of_an_archive(tmp_path):
    samples = np.random.default_rng(0).integers(0, 256, (3, 5, 4, 3), np.uint8)
    with Writer.create(tmp_path / "x.ardmz") as writer:
        for i, own in enumerate(samples):
            writer.add(f"cat/{i}.png", ardmzip.compress(own), label=i, metadata={"id": i})
        writer.add_copy("copy.png", "cat/1.png")
    source = open_source(str(tmp_path / "x.ardmz"))
    assert source.length() == 4
    items = pickle.loads(pickle.dumps(list(source)))
    assert [(item.name, item.label, item.metadata) for item in items] == [
        ("cat/0.png", 0, {"id": 0}),
        ("cat/1.png", 1, {"id": 1}),
        ("cat/2.png", 2, {"id": 2}),
        ("copy.png", None, None),
    ]
    for item, own in zip(items, [*samples, samples[1]], strict=True):
        np.testing.assert_array_equal(item.image().samples, own)


def test_what_is_no_archive_is_named(tmp_path):
    Image.new("L", (2, 2)).save(tmp_path / "x.png")
    (tmp_path / "x.png").rename(tmp_path / "x.ardmz")
    with pytest.raises(ImageError, match=r"x\.ardmz: "):
        list(open_source(str(tmp_path / "x.ardmz")))
