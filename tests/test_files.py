"""Names of outputs and atomic writing (ardmzip/files.py)."""

import errno
import os
import stat
from pathlib import Path

import pytest

from ardmzip import files
from ardmzip.files import check_target, compressed_name, restored_name, write_atomic


@pytest.mark.parametrize(
    ("source", "expected"),
    [("img.png", "img.ardm"), ("a/b.c.TIF", "a/b.c.ardm"), ("img", "img.ardm"), (".png", ".png.ardm")],
)
def test_compressed_name(source, expected):
    assert compressed_name(Path(source)) == Path(expected)


@pytest.mark.parametrize(
    ("source", "expected"),
    [("img.ardm", "img.png"), ("a/b.c.ARDM", "a/b.c.png"), ("img", "img.png"), ("img.v2", "img.v2.png")],
)
def test_restored_name(source, expected):
    assert restored_name(Path(source)) == Path(expected)


def test_writes_a_new_file_with_usual_permissions(tmp_path):
    usual = tmp_path / "usual"
    usual.touch()
    write_atomic(tmp_path / "new", b"data")
    assert (tmp_path / "new").read_bytes() == b"data"
    assert (tmp_path / "new").stat().st_mode == usual.stat().st_mode
    assert sorted(os.listdir(tmp_path)) == ["new", "usual"]


def test_existing_file_is_kept_unless_overwritten(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    path.chmod(0o640)
    with pytest.raises(FileExistsError, match="exists already"):
        write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    write_atomic(path, b"new", overwrite=True)
    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert os.listdir(tmp_path) == ["file"]


def test_overwrite_of_a_new_file(tmp_path):
    write_atomic(tmp_path / "new", b"data", overwrite=True)
    assert (tmp_path / "new").read_bytes() == b"data"


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt(), MemoryError()])
@pytest.mark.parametrize("overwrite", [False, True])
def test_nothing_is_left_of_a_failed_write(tmp_path, monkeypatch, error, overwrite):
    def fail(_descriptor):
        raise error

    path = tmp_path / "file"
    if overwrite:
        path.write_bytes(b"old")
    monkeypatch.setattr(files.os, "fsync", fail)
    with pytest.raises(type(error)):
        write_atomic(path, b"new", overwrite)
    assert os.listdir(tmp_path) == (["file"] if overwrite else [])
    assert not overwrite or path.read_bytes() == b"old"


@pytest.mark.parametrize("hard_links", [True, False])
def test_a_file_that_appears_meanwhile_is_not_overwritten(tmp_path, monkeypatch, hard_links):
    path, link = tmp_path / "file", os.link

    def late(source, target):
        path.write_bytes(b"someone else's")
        if not hard_links:
            raise PermissionError
        link(source, target)

    monkeypatch.setattr(files.os, "link", late)
    with pytest.raises(FileExistsError):
        write_atomic(path, b"ours")
    assert path.read_bytes() == b"someone else's"
    assert os.listdir(tmp_path) == ["file"]


def test_file_system_without_hard_links(tmp_path, monkeypatch):
    def refuse(_source, _target):
        raise PermissionError

    monkeypatch.setattr(files.os, "link", refuse)
    write_atomic(tmp_path / "file", b"data")
    assert (tmp_path / "file").read_bytes() == b"data"
    assert os.listdir(tmp_path) == ["file"]


def test_link_is_replaced_and_not_followed(tmp_path):
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_bytes(b"old")
    link.symlink_to(target)
    with pytest.raises(FileExistsError):
        write_atomic(link, b"new")
    write_atomic(link, b"new", overwrite=True)
    assert not link.is_symlink()
    assert (target.read_bytes(), link.read_bytes()) == (b"old", b"new")


def test_dangling_link_counts_as_existing(tmp_path):
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "nowhere")
    with pytest.raises(FileExistsError):
        write_atomic(link, b"new")
    write_atomic(link, b"new", overwrite=True)
    assert link.read_bytes() == b"new"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes on this system")
def test_what_is_no_regular_file_is_never_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name in ("pipe", "folder"):
        with pytest.raises(OSError, match="not a regular file"):
            write_atomic(tmp_path / name, b"data", overwrite=True)
    assert sorted(os.listdir(tmp_path)) == ["folder", "pipe"]


def test_folder_must_exist(tmp_path):
    with pytest.raises(NotADirectoryError, match="there is no folder"):
        check_target(tmp_path / "nowhere" / "file", overwrite=True)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
@pytest.mark.parametrize("overwrite", [False, True])
def test_errors_of_the_system_name_the_file(tmp_path, monkeypatch, number, overwrite):
    def fail(_descriptor):
        raise OSError(number, os.strerror(number))

    path = tmp_path / "file"
    if overwrite:
        path.write_bytes(b"old")
    monkeypatch.setattr(files.os, "fsync", fail)
    with pytest.raises(OSError, match=os.strerror(number)) as error:
        write_atomic(path, b"new", overwrite)
    assert (error.value.errno, error.value.filename) == (number, str(path))
    assert os.listdir(tmp_path) == (["file"] if overwrite else [])


def test_folder_that_cannot_be_written_is_found_before_the_work(tmp_path, monkeypatch):
    monkeypatch.setattr(files.os, "access", lambda path, mode: False)
    with pytest.raises(PermissionError) as error:
        check_target(tmp_path / "file", overwrite=True)
    assert error.value.filename == str(tmp_path)


def test_temporaries_are_removed_at_an_end_amid_the_work(tmp_path, monkeypatch):
    """A second interruption can come while the first one cleans up."""
    unlink = Path.unlink

    def interrupted(path, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "unlink", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_atomic(tmp_path / "file", b"data", overwrite=False)
    (left,) = {*os.listdir(tmp_path)} - {"file"}
    assert left.startswith(".ardmzip-")
    monkeypatch.setattr(Path, "unlink", unlink)
    files.remove_temporaries()
    assert os.listdir(tmp_path) == ["file"]
