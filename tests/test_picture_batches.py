"""Many pictures to files and back: the same bytes as one by one."""

from __future__ import annotations

import numpy as np
import pytest
from test_lockstep import images

from ardmzip import api, batches, formats
from ardmzip.batches import Options
from ardmzip.container import unpack
from ardmzip.errors import ArdmError, FormatError, ImageError
from ardmzip.image import interleaved


def pictures() -> list[formats.Picture]:
    """Of two sizes, for the model and for general coders; and some that are coded alone."""
    made = [formats.from_array(interleaved(own)) for own in images(4, 3, 18, 16, seed=3)]
    made += [formats.from_array(interleaved(own)) for own in images(2, 1, 12, 12, seed=4)]
    flat = np.zeros((18, 16, 3), np.uint8)
    steps = np.repeat(np.arange(18, dtype=np.uint8)[:, None, None] // 6 * 40, 16, 1).repeat(3, 2)
    made += [formats.from_array(flat), formats.from_array(steps), formats.from_array(flat[:1, :1])]
    alpha = np.dstack([made[0].samples, made[1].samples[:, :, 0]])
    made += [formats.from_array(alpha), formats.from_array(made[2].samples.astype(np.uint16) * 257)]
    return made


@pytest.mark.parametrize("options", [Options(), Options(model="thumb"), Options(learn=True, verify=False)])
def test_the_same_as_one_by_one(options):
    made = pictures()
    together = batches.compress(made, options)
    assert together == [options.compress(picture) for picture in made]
    coders = {unpack(file).uses_model for file in together}
    assert coders == {True, False}
    restored = batches.restore(together)
    for picture, found in zip(made, restored, strict=True):
        assert not isinstance(found, ArdmError)
        assert np.array_equal(found.samples, picture.samples)
        assert found.format == picture.format


def test_which_pictures_learn():
    small, large = (formats.from_array(np.zeros((side, side), np.uint8)) for side in (64, 65))
    assert (Options().learns(small), Options().learns(large)) == (False, None)
    assert Options(learn=True).learns(small) is True
    assert Options().group(small) == (64, 64, 1)
    assert Options().group(large) is None
    assert Options(learn=False).group(large) == (65, 65, 1)
    assert Options(steps=3).group(small) is None


def test_metadata_is_kept(tmp_path):
    from PIL import Image, PngImagePlugin

    from ardmzip import reading

    info = PngImagePlugin.PngInfo()
    info.add_text("Title", "t")
    Image.fromarray(pictures()[0].samples).save(tmp_path / "a.png", pnginfo=info)
    picture = reading.read((tmp_path / "a.png").read_bytes())
    (file,) = batches.compress([picture], Options(model="thumb"))
    assert file == api.compress(picture, model="thumb", learn=False)
    (found,) = batches.restore([file])
    assert found.metadata == picture.metadata


def test_what_is_wrong_with_one_does_not_touch_the_others():
    files = batches.compress(pictures()[:4], Options(model="thumb", verify=False))
    broken = bytearray(files[1])
    broken[40] ^= 1
    found = batches.restore([files[0], bytes(broken), b"nothing", files[3]])
    assert [isinstance(one, FormatError) for one in found] == [False, True, True, False]
    found = batches.restore(files[:3], model_name="photo")  # the fourth needs none
    assert all("needs model" in str(one) for one in found)
    assert all("limit" in str(one) for one in batches.restore(files, max_pixels=10))


def test_errors_of_coding():
    with pytest.raises(ArdmError, match="unknown model"):
        batches.compress(pictures()[:1], Options(model="nosuch"))
    assert batches.compress([], Options()) == []
    assert batches.restore([]) == []


def test_a_result_that_does_not_decode_is_found(monkeypatch):
    monkeypatch.setattr(batches, "restore", lambda files, **_: [ImageError("x")] * len(files))
    with pytest.raises(ArdmError, match="verification failed"):
        batches.compress(pictures()[:2], Options(model="thumb"))
