"""NumPy files."""

from __future__ import annotations

import io

import numpy as np
import pytest

from ardmzip.errors import ImageError
from ardmzip.sources import open_source


def array(*shape: int, dtype: type = np.uint8) -> np.ndarray:
    return np.random.default_rng(0).integers(0, np.iinfo(dtype).max + 1, shape, dtype)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize(
    "images", [array(12, 5, 6), array(2, 5, 6, 3), array(3, 5, 6, 4, dtype=np.uint16), array(1, 7, 1, 1)], ids=str
)
def test_stacks(tmp_path, content, images, order):
    np.save(tmp_path / "x.npy", np.asarray(images, order=order))
    found = content(open_source(str(tmp_path / "x.npy")))
    digits = len(str(len(images) - 1))
    assert list(found) == [f"{i:0{digits}}.png" for i in range(len(images))]
    for (_, _, picture), image in zip(found.values(), images, strict=True):
        expected = image[:, :, 0] if image.ndim == 3 and image.shape[2] == 1 else image
        assert picture.dtype == expected.dtype
        np.testing.assert_array_equal(picture, expected)


@pytest.mark.parametrize("shape", [(6, 7), (6, 7, 3)])
def test_single_images(tmp_path, content, shape):
    np.save(tmp_path / "x.npy", array(*shape))
    np.testing.assert_array_equal(content(open_source(str(tmp_path / "x.npy")))["0.png"][2], array(*shape))


def test_foreign_byte_order(tmp_path, content):
    deep = array(2, 5, 6, dtype=np.uint16)
    np.save(tmp_path / "x.npy", deep.astype(">u2"))
    np.testing.assert_array_equal(content(open_source(str(tmp_path / "x.npy")))["1.png"][2], deep[1])


@pytest.mark.parametrize(
    ("arrays", "labels"),
    [
        ({"images": array(3, 4, 5, 3), "labels": np.array([4, 0, 2])}, {"0.png": 4, "1.png": 0, "2.png": 2}),
        ({"data": array(2, 4, 5, 3), "classes_of_them": np.array(["cat", "dog"])}, {"0.png": "cat", "1.png": "dog"}),
        ({"arr_0": array(2, 4, 5), "arr_1": np.array([[7], [8]], np.uint8)}, {"0.png": 7, "1.png": 8}),
        (
            {"x_train": array(2, 4, 5), "y_train": np.array([1, 2]), "x_test": array(2, 4, 5), "y_test": [b"a", b"b"]},
            {"x_test/0.png": "a", "x_test/1.png": "b", "x_train/0.png": 1, "x_train/1.png": 2},
        ),
        (
            {"train_images": array(1, 4, 5), "train_labels": np.array([[3]]), "val_images": array(1, 4, 5)},
            {"train_images/0.png": 3, "val_images/0.png": None},
        ),
        ({"x": array(2, 4, 5), "ids": np.arange(3)}, {"0.png": None, "1.png": None}),
    ],
    ids=["labels", "only one", "unnamed", "keras", "medmnist", "of another length"],
)
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_labels_beside(tmp_path, content, arrays, labels, save):
    save(tmp_path / "x.npz", **arrays)
    found = content(open_source(str(tmp_path / "x.npz")))
    assert {name: label for name, (label, _, _) in found.items()} == labels


def test_arrays_that_are_left_out_are_told(tmp_path):
    np.savez(tmp_path / "x.npz", images=array(2, 4, 5), labels=np.arange(2), boxes=np.zeros((2, 4)))
    assert [item.lost for item in open_source(str(tmp_path / "x.npz"))] == [("array boxes",)] * 2


@pytest.mark.parametrize(
    ("bad", "text"),
    [
        (np.zeros((2, 4, 5)), "type float64"),
        (np.zeros((2, 3, 32, 32), np.uint8), r"shape \(2, 3, 32, 32\) holds no images"),
        (np.zeros(5, np.uint8), "holds no images"),
        (np.zeros((2, 0, 5), np.uint8), "no pixels"),
        (np.array([[{}]]), "Python objects"),
        (np.zeros((1, 40, 40), np.uint8), "limit of 1000 pixels"),
    ],
)
def test_arrays_that_hold_no_images(tmp_path, bad, text):
    np.save(tmp_path / "x.npy", bad)
    with pytest.raises(ImageError, match=rf"x\.npy: .*{text}"):
        list(open_source(str(tmp_path / "x.npy"), max_pixels=1000))


def test_no_images_in_an_archive(tmp_path):
    np.savez(tmp_path / "x.npz", a=np.zeros((2, 4, 5)), b=np.arange(3))
    with pytest.raises(ImageError, match=r"none of the arrays \(a, b\) holds images"):
        list(open_source(str(tmp_path / "x.npz")))


@pytest.mark.parametrize("kind", [np.save, np.savez, np.savez_compressed])
def test_damage(tmp_path, kind):
    """Whatever is cut off or changed gives one line that names the file, or items that are there."""
    file = io.BytesIO()
    kind(file, array(3, 8, 8))
    whole, path = file.getvalue(), tmp_path / ("x.npy" if kind is np.save else "x.npz")
    rng = np.random.default_rng(0)
    failed = 0
    for trial in range(150):
        data = bytearray(whole)
        if trial < 50:
            del data[rng.integers(len(data)) :]
        else:
            for _ in range(rng.integers(1, 4)):
                data[rng.integers(min(len(data), 160))] = rng.integers(256)
        path.write_bytes(data)
        try:
            for item in open_source(str(path), max_pixels=1 << 20):
                item.image()
        except ImageError as error:
            failed += 1
            assert str(path) in str(error) and "\n" not in str(error)  # noqa: PT017, PT018
    assert failed > 60
    path.write_bytes(whole[:-40])
    with pytest.raises(ImageError, match=r"x\.np"):
        list(open_source(str(path)))
