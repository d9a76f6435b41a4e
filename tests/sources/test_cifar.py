"""Batches of CIFAR, which are pickles, so that hostile ones must be harmless."""

from __future__ import annotations

import os
import pickle
import pickletools
import subprocess

import numpy as np
import pytest

from ardmzip.errors import ImageError
from ardmzip.sources import cifar, open_source

COUNT = 3


def images() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (COUNT, 32, 32, 3), np.uint8)


def planes() -> np.ndarray:
    return images().transpose(0, 3, 1, 2).reshape(COUNT, -1)


def python2(value: dict) -> bytes:
    """A pickle as Python 2 wrote the originals: texts are bytes, and arrays hold theirs as such."""

    def text(raw: bytes) -> bytes:
        return b"T" + len(raw).to_bytes(4, "little") + raw

    def dump(one: object) -> bytes:
        if isinstance(one, dict):
            return b"}(" + b"".join(text(key.encode()) + dump(item) for key, item in one.items()) + b"u"
        if isinstance(one, list):
            return b"](" + b"".join(map(dump, one)) + b"e"
        if isinstance(one, str):
            return text(one.encode())
        if isinstance(one, int):
            return b"J" + one.to_bytes(4, "little")
        assert isinstance(one, np.ndarray)
        kind = b"cnumpy\ndtype\n(" + text(b"u1") + dump(0) + dump(1) + b"tR(" + dump(3) + text(b"|") + b"NNN"
        kind += b"J\xff\xff\xff\xffJ\xff\xff\xff\xff" + dump(0) + b"tb"
        made = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(" + dump(0) + b"t" + text(b"b") + b"tR("
        shape = b"(" + b"".join(map(dump, one.shape)) + b"t"
        return made + dump(1) + shape + kind + b"\x89" + text(one.tobytes()) + b"tb"

    return b"\x80\x02" + dump(value) + b"."


BATCH = {"data": planes(), "labels": [3, 0, 9], "filenames": ["a.png", "b.png", "c.png"], "batch_label": "one"}
NAMES = {"label_names": [f"class {i}" for i in range(10)], "num_vis": 3072}


def test_the_pickle_of_python_2():
    """That it is one: pickle itself reads it."""
    found = pickle.loads(python2(BATCH), encoding="bytes")
    assert np.array_equal(found[b"data"], planes())
    assert found[b"labels"] == [3, 0, 9]


@pytest.mark.parametrize("dump", [python2, *(lambda value, p=p: pickle.dumps(value, p) for p in (2, 3, 4))])
@pytest.mark.parametrize("named", [False, True])
def test_python_batches(tmp_path, content, dump, named):
    (tmp_path / "data_batch_1").write_bytes(dump(BATCH))
    if named:
        (tmp_path / "batches.meta").write_bytes(dump(NAMES))
    found = content(open_source(str(tmp_path / "data_batch_1")))
    assert [label for label, _, _ in found.values()] == (["class 3", "class 0", "class 9"] if named else [3, 0, 9])
    assert [metadata for _, metadata, _ in found.values()] == [{"filename": f"{name}.png"} for name in "abc"]
    for (_, _, pixels), image in zip(found.values(), images(), strict=True):
        np.testing.assert_array_equal(pixels, image)


def test_python_folder(tmp_path, content):
    for name in ("data_batch_2", "data_batch_1", "test_batch"):
        (tmp_path / name).write_bytes(pickle.dumps(BATCH, 2))
    (tmp_path / "batches.meta").write_bytes(pickle.dumps(NAMES, 2))
    (tmp_path / "readme.html").write_text("text")
    found = content(open_source(str(tmp_path)))
    assert [*found][::COUNT] == ["data_batch_1/0.png", "data_batch_2/0.png", "test_batch/0.png"]
    assert found["test_batch/2.png"][0] == "class 9"


def test_cifar100(tmp_path, content):
    batch = {"data": planes(), "fine_labels": [1, 0, 1], "coarse_labels": np.array([0, 1, 0])}
    (tmp_path / "train").write_bytes(pickle.dumps(batch, 2))
    names = {"fine_label_names": ["cat", "dog"], "coarse_label_names": ["x", "y"]}
    (tmp_path / "meta").write_bytes(pickle.dumps(names, 2))
    found = content(open_source(str(tmp_path)))
    assert {name: (label, metadata) for name, (label, metadata, _) in found.items()} == {
        "train/0.png": ("dog", {"coarse_label": "x"}), "train/1.png": ("cat", {"coarse_label": "y"}),
        "train/2.png": ("dog", {"coarse_label": "x"}),
    }  # fmt: skip


@pytest.mark.parametrize("labels", [1, 2])
def test_binary_batches(tmp_path, content, labels):
    numbers = np.array([[3], [0], [9]], np.uint8)[:, :1].repeat(labels, 1)
    (tmp_path / "test.bin").write_bytes(np.hstack([numbers, planes()]).tobytes())
    found = content(open_source(str(tmp_path / "test.bin")))
    assert [label for label, _, _ in found.values()] == [3, 0, 9]
    assert (
        [metadata for _, metadata, _ in found.values()] == [{"coarse_label": i} for i in (3, 0, 9)]
        if (labels == 2)
        else [None] * 3
    )
    for (_, _, pixels), image in zip(found.values(), images(), strict=True):
        np.testing.assert_array_equal(pixels, image)
    name = "batches.meta.txt" if labels == 1 else "fine_label_names.txt"
    (tmp_path / name).write_text("\n".join(f"c{i}" for i in range(10)) + "\n\n")
    assert [item.label for item in open_source(str(tmp_path))] == ["c3", "c0", "c9"]
    (tmp_path / name).write_text("a\nb")
    with pytest.raises(ImageError, match=r"test\.bin: a label is 3, and there are 2 classes"):
        list(open_source(str(tmp_path)))


def test_a_binary_batch_that_is_cut_off(tmp_path):
    (tmp_path / "test.bin").write_bytes(bytes(3000))
    with pytest.raises(ImageError, match=r"test\.bin: no batch of CIFAR: 3000 bytes"):
        list(open_source(str(tmp_path / "test.bin")))


class Evil:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("function", [os.system, subprocess.check_output, eval, open, os.putenv, np.load])
def test_hostile_pickles_run_nothing(tmp_path, function):
    proof = tmp_path / "proof"
    arguments = {os.system: f"touch {proof}", eval: f"open({str(proof)!r}, 'w')"}.get(function, str(proof))
    (tmp_path / "data_batch_1").write_bytes(pickle.dumps({"data": Evil(function, arguments)}, 2))
    with pytest.raises(ImageError, match=r"data_batch_1: no batch of CIFAR: it holds \S+, which no batch does"):
        list(open_source(str(tmp_path / "data_batch_1")))
    assert not proof.exists()


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ([1], "it holds no dictionary"),
        ({}, "an array is missing"),
        ({"data": np.zeros((2, 3))}, "of another kind"),
        ({"data": np.zeros((2, 3), np.uint8)}, r"uint8 of shape \(2, 3\)"),
        ({"data": planes(), "labels": [1]}, r"labels of shape \(1,\) for 3 images"),
        ({"data": planes(), "labels": "123"}, "an array is missing"),
        ({"data": planes(), "filenames": 7}, "not a list of texts"),
        ({"data": planes(), "filenames": ["a"]}, "1 file names for 3 images"),
    ],
)
def test_other_pickles(tmp_path, value, text):
    (tmp_path / "data_batch_1").write_bytes(pickle.dumps(value, 2))
    with pytest.raises(ImageError, match=text):
        list(open_source(str(tmp_path / "data_batch_1")))


def test_a_pickle_that_claims_to_number_its_objects_far_up(tmp_path):
    """Python's unpickler in C would take memory for two thousand million objects."""
    (tmp_path / "data_batch_1").write_bytes(b"\x80\x02}r\xff\xff\xff\x7f.")
    with pytest.raises(ImageError, match="an array is missing"):
        list(open_source(str(tmp_path / "data_batch_1")))


def test_damaged_pickles(tmp_path):
    """Every error is one line that names the file."""
    small = {"data": np.zeros((1, 3072), np.uint8), "labels": [1], "filenames": ["a.png"]}
    whole, path, rng = pickle.dumps(small, 2), tmp_path / "data_batch_1", np.random.default_rng(0)
    interesting = [position for _, _, position in pickletools.genops(whole)]
    failed = 0
    for _ in range(300):
        data = bytearray(whole)
        for _ in range(rng.integers(1, 3)):
            data[rng.choice(interesting)] = rng.integers(256)
        path.write_bytes(data)
        try:
            for item in cifar.PythonBatch(str(path), None):
                item.image()
        except ImageError as error:
            failed += 1
            assert "data_batch_1" in str(error) and "\n" not in str(error)  # noqa: PT017, PT018
    assert failed > 200
