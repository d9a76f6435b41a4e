"""Parquet files, as Hugging Face datasets are stored."""

from __future__ import annotations

import json
import sys
from datetime import date
from pathlib import Path

import numpy as np
import pytest

from ardmzip.errors import ImageError
from ardmzip.sources import open_source

pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed (pip install 'ardmzip[datasets]')")
from pyarrow import parquet  # noqa: E402


def write(path, columns: dict, features: dict | None = None) -> str:
    table = pyarrow.table(columns)
    if features is not None:
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    parquet.write_table(table, path, row_group_size=7)
    return str(path)


CLASSES = {"_type": "ClassLabel", "names": ["cat", "dog"]}
IMAGE = {"_type": "Image"}


def test_hugging_face(tmp_path, content, png, pixels):
    columns = {
        "id": [10 * i for i in range(20)],
        "img": [{"bytes": png(i), "path": f"x/{i}.PNG" if i % 2 else None} for i in range(20)],
        "label": [i % 2 for i in range(19)] + [-1],
    }
    path = write(tmp_path / "train.parquet", columns, {"img": IMAGE, "label": CLASSES, "id": {"_type": "Value"}})
    found = content(open_source(path))
    assert list(found) == [f"{i:02}.png" for i in range(20)]
    assert [label for label, _, _ in found.values()] == [["cat", "dog"][i % 2] for i in range(19)] + [None]
    assert found["03.png"][1] == {"id": 30, "path": "x/3.PNG"}
    assert found["04.png"][1] == {"id": 40}
    for i, (_, _, picture) in enumerate(found.values()):
        np.testing.assert_array_equal(picture, pixels(i))


def test_without_a_description(tmp_path, content, png):
    structs = {"x": [{"bytes": png(1), "path": None}], "label": [3]}
    assert [found[:2] for found in content(open_source(write(tmp_path / "a.parquet", structs))).values()] == [(3, None)]
    plain = {"data": [png(1), png(2)], "caption": ["one", "two"]}
    assert [found[:2] for found in content(open_source(write(tmp_path / "b.parquet", plain))).values()] == [
        (None, {"caption": "one"}), (None, {"caption": "two"}),
    ]  # fmt: skip


def test_several_images_a_row(tmp_path, content, png):
    columns = {"left": [{"bytes": png(1), "path": None}], "right": [{"bytes": png(2), "path": None}]}
    path = write(tmp_path / "x.parquet", columns, {"left": IMAGE, "right": IMAGE})
    assert list(content(open_source(path))) == ["0.left.png", "0.right.png"]


def test_what_json_cannot_hold_is_told(tmp_path, png):
    columns = {"img": [{"bytes": png(1), "path": None}], "day": [date(2020, 1, 2)], "score": [float("nan")]}
    (item,) = open_source(write(tmp_path / "x.parquet", columns, {"img": IMAGE}))
    assert item.lost == ("column day", "column score")


def test_a_folder_of_splits(tmp_path, content, png):
    (tmp_path / "data").mkdir()
    for name in ("test-00000-of-00001", "train-00000-of-00001"):
        write(tmp_path / "data" / f"{name}.parquet", {"img": [{"bytes": png(1), "path": None}]}, {"img": IMAGE})
    assert list(content(open_source(str(tmp_path)))) == [
        "data/test-00000-of-00001/0.png", "data/train-00000-of-00001/0.png",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("columns", "features", "text"),
    [
        ({"img": [{"bytes": None, "path": "a.png"}]}, {"img": IMAGE}, "row 0: the image is in another file, a.png"),
        ({"img": [None]}, {"img": IMAGE}, "row 0: the image is missing"),
        ({"img": [b"x"], "label": [2]}, {"img": IMAGE, "label": CLASSES}, "a label is 2, and there are 2 classes"),
        ({"number": [1]}, None, r"none of the columns \(number\) holds the bytes of images"),
        ({"img": [{"bytes": b"no image", "path": None}]}, {"img": IMAGE}, "row 0: not an image"),
    ],
)
def test_bad_rows(tmp_path, columns, features, text):
    path = write(tmp_path / "x.parquet", columns, features)
    with pytest.raises(ImageError, match=rf"x\.parquet: .*{text}"):
        [item.image() for item in open_source(path)]


def test_damage(tmp_path, png):
    whole = Path(write(tmp_path / "x.parquet", {"img": [png(i) for i in range(5)]})).read_bytes()
    rng, failed = np.random.default_rng(0), 0
    for trial in range(80):
        data = bytearray(whole)
        if trial < 20:
            del data[rng.integers(len(data)) :]
        else:
            data[rng.integers(len(data) - 8)] ^= rng.integers(1, 256)
        (tmp_path / "x.parquet").write_bytes(data)
        try:
            for item in open_source(str(tmp_path / "x.parquet")):
                item.image()
        except ImageError as error:
            failed += 1
            assert "x.parquet" in str(error) and "\n" not in str(error)  # noqa: PT017, PT018
    assert failed > 30


def test_without_pyarrow(tmp_path, monkeypatch):
    (tmp_path / "x.parquet").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ImageError, match=r"parquet files need pyarrow: pip install 'ardmzip\[datasets\]'"):
        list(open_source(str(tmp_path / "x.parquet")))
