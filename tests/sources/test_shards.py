"""Tar shards."""

from __future__ import annotations

import json
import tarfile

import numpy as np
import pytest

from ardmzip.errors import ImageError
from ardmzip.sources import open_source, open_sources


def test_samples(tmp_path, content, write_tar, png, pixels):
    path = write_tar(
        tmp_path / "x.tar",
        {
            "./0001.png": png(1), "0001.cls": b"7", "0001.json": b'{"place": "Rome", "txt": "theirs"}',
            "0001.txt": "ein Bild, schön".encode(), "0002.CLS": b"a cat\n", "0002.left.png": png(2),
            "0002.right.PNG": png(3), "0002.json": b"[1, 2]", "b/0001.png": png(4), ".hidden.png": png(5),
            "0003.cls": b"1",
        },
    )  # fmt: skip
    found = content(open_source(str(path)))
    assert {name: (label, metadata) for name, (label, metadata, _) in found.items()} == {
        "0001.png": (7, {"place": "Rome", "txt": "theirs"}),
        "0002.left.png": ("a cat", {"json": [1, 2]}),
        "0002.right.PNG": ("a cat", {"json": [1, 2]}),
        "b/0001.png": (None, None),
    }
    np.testing.assert_array_equal(found["b/0001.png"][2], pixels(4))


def test_texts_and_what_is_lost(tmp_path, write_tar, png):
    members = {"1.png": png(1), "1.txt": b"caption", "1.mp3": b"music", "1": b"?"}
    (item,) = open_source(str(write_tar(tmp_path / "x.tar", members)))
    assert item.metadata == {"txt": "caption"}
    assert item.lost == ("mp3", "a member without suffix")


@pytest.mark.parametrize(
    ("suffix", "mode"), [(".tar", "w:gz"), (".tar.gz", "w:gz"), (".tgz", "w:gz"), (".tar.xz", "w:xz")]
)
def test_compressed(tmp_path, content, write_tar, png, suffix, mode):
    path = write_tar(tmp_path / f"x{suffix}", {"1.png": png(1)}, mode)
    assert list(content(open_source(str(path)))) == ["1.png"]


def test_several(tmp_path, content, write_tar, png):
    for name in ("s/x-000.tar", "s/x-001.tar", "s/deep/y.tar"):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        write_tar(tmp_path / name, {"1.png": png(1)})
    three = ["deep/y/1.png", "x-000/1.png", "x-001/1.png"]
    assert sorted(content(open_source(str(tmp_path / "s")))) == three
    assert list(content(open_source(f"{tmp_path}/s/x-{{000..001}}.tar"))) == three[1:]
    assert list(content(open_sources([f"{tmp_path}/s/x-*.tar", f"{tmp_path}/s/deep/y.tar"]))) == ["y/1.png", *three[1:]]
    (tmp_path / "s/deep/y.npy").touch()
    np.save(tmp_path / "s/deep/y.npy", np.zeros((1, 2, 2), np.uint8))
    assert list(content(open_source(str(tmp_path / "s/deep")))) == ["y.npy/0.png", "y.tar/1.png"]


@pytest.mark.parametrize(
    ("members", "text"),
    [
        ({"1.png": b"no image"}, r"x\.tar: 1\.png: not an image"),
        ({"1.json": b"{"}, r"x\.tar: 1\.json: "),
        ({"1.json": b"[" * 100_000}, r"x\.tar: 1\.json: "),
        ({"1.cls": b"\xff"}, r"x\.tar: 1\.cls: "),
        ({"../1.png": b""}, r"x\.tar: '\.\./1\.png' is no name"),
        ({"/tmp/1.png": b""}, r"x\.tar: '/tmp/1\.png' is no name"),
    ],
)
def test_bad_members(tmp_path, write_tar, members, text):
    path = write_tar(tmp_path / "x.tar", members)
    with pytest.raises(ImageError, match=text):
        [item.image() for item in open_source(str(path))]


def test_two_members_of_one_name(tmp_path, png):
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        (tmp_path / "1.png").write_bytes(png(1))
        for _ in range(2):
            tar.add(tmp_path / "1.png", "1.png")
    with pytest.raises(ImageError, match=r"x\.tar: 1\.png: two members have this name"):
        list(open_source(str(tmp_path / "x.tar")))


@pytest.mark.parametrize("kind", [tarfile.LNKTYPE, tarfile.SYMTYPE])
def test_a_link(tmp_path, kind):
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        member = tarfile.TarInfo("1.png")
        member.type, member.linkname = kind, "0.png"
        tar.addfile(member)
    with pytest.raises(ImageError, match=r"x\.tar: 1\.png: links are not supported"):
        list(open_source(str(tmp_path / "x.tar")))


def test_a_sparse_member(tmp_path):
    """A few bytes that claim to be gigabytes."""
    head = tarfile.TarInfo("1.png")
    head.type, head.size = tarfile.GNUTYPE_SPARSE, 512
    block = bytearray(head.tobuf(tarfile.GNU_FORMAT))
    block[386:398] = block[398:410] = b"00000000000\0"
    block[483:495] = b"77777777777\0"
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    (tmp_path / "x.tar").write_bytes(bytes(block) + bytes(512 * 3))
    with pytest.raises(ImageError, match="sparse files are not supported"):
        list(open_source(str(tmp_path / "x.tar")))


@pytest.mark.parametrize("size", [1500, 1536, 1024])
def test_a_shard_that_is_cut_off(tmp_path, write_tar, png, size):
    """The samples before the end come back; also where it ends between members, or within a header."""
    path = write_tar(tmp_path / "x.tar", {f"{i}.png": png(i) for i in range(3)} | {"9.json": json.dumps({}).encode()})
    path.write_bytes(path.read_bytes()[:size])
    found = []
    with pytest.raises(ImageError, match=r"x\.tar: "):
        found.extend(item.image() for item in open_source(str(path)))
    assert [picture.width for picture in found] in ([5], [])


def test_a_damaged_header(tmp_path, write_tar, png):
    path = write_tar(tmp_path / "x.tar", {f"{i}.png": png(i) for i in range(3)})
    data = bytearray(path.read_bytes())
    data[1024] ^= 1
    path.write_bytes(data)
    with pytest.raises(ImageError, match=r"x\.tar: damaged: bad checksum"):
        list(open_source(str(path)))
