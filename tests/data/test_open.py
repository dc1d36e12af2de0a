"""Every kind of source gives the same images; everything bad is named in words."""

from __future__ import annotations

import hashlib
import io
import os
import struct
import sys
import zipfile
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from PIL import ExifTags, Image

from tests.data.pictures import SHAPE, fill, picture, pixels, zipped
from toolkit.core.errors import DtkError, MissingToolError
from toolkit.data.memory import open_examples
from toolkit.data.open import open_images
from toolkit.data.prepare import Fit, UnreadableImageError, decode, prepare
from toolkit.pipeline.recipe import DataSettings


def test_folder_zip_and_npz_give_the_same_images(tmp_path):
    folder = fill(tmp_path / "images" / "a")
    fill(tmp_path / "images" / "b", 2)
    expected = np.stack([np.asarray(picture(number)) for number in (0, 1, 2, 3, 0, 1)])
    np.savez(tmp_path / "images.npz", expected)
    sources = [folder.parent, zipped(folder.parent, tmp_path / "images.zip"), tmp_path / "images.npz"]
    opened = [open_images(source, SHAPE) for source in sources]
    for images in opened:
        np.testing.assert_array_equal(pixels(images), expected)
    assert opened[0].sha256 == opened[1].sha256


def test_read_is_channels_first_float_in_minus_one_to_one(tmp_path):
    images = open_images(fill(tmp_path / "images"), SHAPE)
    read = images.read([2, 0])
    assert read.dtype == np.float32
    assert read.shape == (2, 3, 8, 8)
    expected = np.asarray(picture(0)).astype(np.float64).transpose(2, 0, 1) / 127.5 - 1
    np.testing.assert_allclose(read[1], expected, atol=1e-6)


@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
def test_npz_of_either_layout(tmp_path, layout):
    stored = np.stack([np.asarray(picture(number)) for number in range(3)])
    np.savez(tmp_path / "x.npz", images=stored if layout == "NHWC" else stored.transpose(0, 3, 1, 2), labels=[0, 1, 2])
    np.testing.assert_array_equal(pixels(open_images(tmp_path / "x.npz", SHAPE)), stored)


def test_resizing_covers_the_model_and_crops_the_centre(tmp_path):
    left_to_right = np.repeat(np.arange(0, 96, dtype=np.uint8)[None], 32, axis=0)  # 96 wide, 32 high
    (tmp_path / "images").mkdir()
    Image.fromarray(left_to_right).save(tmp_path / "images" / "ramp.png")
    images = open_images(tmp_path / "images", (1, 8, 8))
    row = pixels(images)[0, 4, :, 0].astype(float)
    np.testing.assert_allclose(row, 32 + 4 * np.arange(8) + 1.5, atol=1)  # the middle 32 columns, averaged by fours
    assert "resized to cover 8x8" in images.preparation


def test_without_cropping_an_image_is_stretched(tmp_path):
    ramp = np.repeat(np.arange(0, 96, dtype=np.uint8)[None], 32, axis=0)  # 96 wide, 32 high
    (tmp_path / "images").mkdir()
    Image.fromarray(ramp).save(tmp_path / "images" / "ramp.png")
    np.savez(tmp_path / "ramp.npz", images=ramp[None])
    for source in ("images", "ramp.npz"):
        images = open_images(tmp_path / source, (1, 8, 8), fit=Fit("box", crop="none"))
        np.testing.assert_allclose(pixels(images)[0, 4, :, 0], 12 * np.arange(8) + 5.5, atol=1)
        assert images.preparation == "stretched to 8x8 (Pillow box, antialiased)"
        assert images.fingerprint != open_images(tmp_path / source, (1, 8, 8)).fingerprint


@pytest.mark.parametrize("resize", get_args(DataSettings.model_fields["resize"].annotation))
def test_every_filter_of_the_recipe_is_pillows(tmp_path, resize):
    picture(0, size=(20, 20)).save(fill(tmp_path / "images", 0) / "a.png")
    expected = picture(0, size=(20, 20)).resize((8, 8), getattr(Image.Resampling, resize.upper()))
    np.testing.assert_array_equal(pixels(open_images(tmp_path / "images", SHAPE, fit=Fit(resize)))[0], expected)


def test_enlarged_images_are_counted(tmp_path):
    folder = fill(tmp_path / "images", 3)
    picture(9, size=(4, 4)).save(folder / "small.png")
    assert "1 enlarged" in open_images(folder, SHAPE).preparation


def test_shrinking_is_antialiased(tmp_path):
    (tmp_path / "images").mkdir()
    checks = (np.indices((64, 64)).sum(axis=0) % 2 * 255).astype(np.uint8)
    Image.fromarray(checks).save(tmp_path / "images" / "checks.png")
    np.testing.assert_allclose(pixels(open_images(tmp_path / "images", (1, 8, 8))), 127.5, atol=2)


def test_turned_photographs_stand_upright(tmp_path):
    (tmp_path / "images").mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera lay on its side: turn by 90 degrees clockwise
    picture(0).save(tmp_path / "images" / "photo.png", exif=exif)
    turned = np.rot90(np.asarray(picture(0)), k=-1)
    np.testing.assert_array_equal(pixels(open_images(tmp_path / "images", SHAPE))[0], turned)


def bad_files(folder):
    fill(folder)
    (folder / "notes.txt").write_text("not a picture")
    content = io.BytesIO()
    picture(1, size=(64, 64)).save(content, "JPEG")
    (folder / "cut.jpg").write_bytes(content.getvalue()[:-400])
    (folder / "empty.png").touch()
    (folder / ".hidden.png").write_bytes(b"ignored")
    return folder


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_bad_images_are_named_counted_and_left_out(tmp_path, kind):
    folder = bad_files(tmp_path / "images")
    images = open_images(folder if kind == "folder" else zipped(folder, tmp_path / "images.zip"), SHAPE)
    assert len(images) == 4
    assert len(images.skipped) == 3
    assert any(line.startswith("notes.txt: not an image") for line in images.skipped)
    assert any(line.startswith("cut.jpg: damaged: ") and "truncated" in line for line in images.skipped)
    assert images.sha256 == open_images(fill(tmp_path / "good"), SHAPE).sha256


def test_links_are_followed_but_not_in_circles(tmp_path):
    """A class folder that is a link counts; one that leads back does not; a link to nothing is named."""
    folder = fill(tmp_path / "data" / "cat", 2).parent
    fill(tmp_path / "elsewhere" / "deep", 3)
    (folder / "dog").symlink_to(tmp_path / "elsewhere")
    (folder / "cat" / "up").symlink_to("..")
    (tmp_path / "elsewhere" / "back").symlink_to(folder / "cat")
    (folder / "cat" / "self").symlink_to("self")
    (folder / "cat" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    os.mkfifo(folder / "cat" / "pipe.png")
    images = open_images(folder, SHAPE)
    assert images.described.class_names == ("cat", "dog")
    assert images.conditions("class", range(len(images))) == [0] * 2 + [1] * (2 + 3)
    assert {line.partition(": ")[0] for line in images.skipped} == {
        f"{place}/{name}" for place in ("cat", "dog/back") for name in ("gone.png", "self")
    }


def test_names_are_of_any_letters(tmp_path):
    names = ["ключ/深い/画像 ü.png", "e\u0301/[bold]<b>&.png", os.fsdecode(b"\xff/\xfe.png")]
    for number, name in enumerate(names):
        (tmp_path / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        picture(number).save(tmp_path / "data" / name)
    images = open_images(tmp_path / "data", SHAPE)
    order = sorted(range(3), key=names.__getitem__)
    np.testing.assert_array_equal(pixels(images), np.stack([np.asarray(picture(number)) for number in order]))


def test_a_zip_is_read_in_place_whatever_its_names_say(tmp_path, monkeypatch):
    content = (fill(tmp_path / "images", 1) / "000.png").read_bytes()
    (tmp_path / "deep" / "er").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "deep" / "er")
    with zipfile.ZipFile("images.zip", "w") as archive:
        for name in ("../../out.png", "a/../../../out.png", f"{tmp_path}/out.png", "a/in.png"):
            archive.writestr(name, content)
    before = set(tmp_path.rglob("*"))
    assert len(open_images("images.zip", SHAPE)) == 2, "names that begin with a dot are hidden ones"
    assert set(tmp_path.rglob("*")) == before


def test_a_name_that_a_zip_holds_twice_is_one_file_as_unpacked(tmp_path):
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        for path in sorted(fill(tmp_path / "images", 2).iterdir()):
            archive.write(path, "same.png")
    np.testing.assert_array_equal(pixels(open_images(tmp_path / "images.zip", SHAPE)), np.asarray(picture(1))[None])


def test_zip_member_with_a_wrong_checksum_is_skipped(tmp_path):
    path = zipped(fill(tmp_path / "images"), tmp_path / "images.zip")
    content = bytearray(path.read_bytes())
    content[content.index(b"IDAT") + 20] ^= 0xFF
    path.write_bytes(content)
    images = open_images(path, SHAPE)
    assert len(images) == 3
    assert images.skipped[0].startswith("000.png: ")


def test_large_sets_are_decoded_when_read(tmp_path, monkeypatch):
    folder = fill(tmp_path / "images")
    kept = open_images(folder, SHAPE)
    monkeypatch.setattr("toolkit.data.decoded.MEMORY_BYTES", 0)
    lazy = open_images(folder, SHAPE)
    np.testing.assert_array_equal(pixels(lazy), pixels(kept))
    assert lazy.fingerprint == kept.fingerprint


def test_a_few_grey_images_of_a_colour_set_are_converted_and_counted(tmp_path):
    folder = fill(tmp_path / "images")
    picture(7, "L").save(folder / "zz.png")
    images = open_images(folder, SHAPE)
    np.testing.assert_array_equal(pixels(images)[4], np.repeat(np.asarray(picture(7, "L"))[..., None], 3, axis=2))
    assert "1 converted to colour (3 channels)" in images.preparation


@pytest.mark.parametrize(
    ("mode", "channels", "found", "expected"),
    [
        ("L", 3, "4 of 4 images are grey (1 channel)", "colour (3 channels), which is what the model makes"),
        ("RGB", 1, "4 of 4 images are colour (3 channels)", "grey (1 channel), which is what the model makes"),
    ],
)
def test_a_set_of_the_wrong_channels_is_an_error_that_names_both(tmp_path, mode, channels, found, expected):
    with pytest.raises(DtkError, match="do not have the model's number of channels") as error:
        open_images(fill(tmp_path / "images", mode=mode), (channels, 8, 8))
    assert found in str(error.value)
    assert expected in str(error.value)


def test_grey_pictures_stored_as_rgb_fit_a_grey_model(tmp_path):
    (tmp_path / "images").mkdir()
    picture(0, "L").convert("RGB").save(tmp_path / "images" / "grey.png")
    images = open_images(tmp_path / "images", (1, 8, 8))
    np.testing.assert_array_equal(pixels(images)[0, ..., 0], np.asarray(picture(0, "L")))
    assert "converted" not in images.preparation


def filled(value, dtype):
    return Image.fromarray(np.full((8, 8), value, dtype))


def saved(image, name, **options):
    content = io.BytesIO()
    image.save(content, name, **options)
    return content.getvalue()


def tiff(image, **patched):
    """The image as TIFF, with other values in entries of its directory that hold one 16-bit number."""
    stored = saved(image, "TIFF")
    for tag, value in patched.items():
        entry = struct.pack("<HHI", ExifTags.Base[tag], 3, 1)
        assert stored.count(entry) == 1
        before, after = stored.split(entry)
        stored = before + entry + struct.pack("<H", value) + after[2:]
    return stored


DEEP = {
    "16-bit PNG": (saved(filled(0x8040, np.uint16), "PNG"), 0x80),
    "16-bit JPEG 2000": (saved(filled(0x8040, np.uint16), "JPEG2000"), 0x80),
    "16-bit PGM": (saved(filled(0x8040, np.uint16), "PPM"), 0x80),
    "10-bit PGM": (b"P5 8 8 1023\n" + b"\x02\x00" * 64, 0x80),
    "16-bit TIFF": (tiff(filled(0x8040, np.uint16)), 0x80),
    "16-bit TIFF of big-endian words": (tiff(Image.new("I;16B", (8, 8), 0x8040)), 0x80),
    "16-bit TIFF with white at 0": (tiff(filled(0x8040, np.uint16), PhotometricInterpretation=0), 0x7F),
    "12-bit TIFF": (tiff(filled(0x8888, np.uint16), BitsPerSample=12), 0x88),
    "1-bit TIFF": (tiff(filled(0xFF, np.uint8).convert("1")), 0xFF),
    "TIFF of premultiplied grey": (tiff(filled(99, np.uint8).convert("LA"), ExtraSamples=1), 99),
}


@pytest.mark.parametrize("name", DEEP)
def test_grey_of_any_depth_is_scaled_by_the_depth_that_its_file_says(name):
    content, expected = DEEP[name]
    assert (decode(content, (1, 8, 8)).pixels == expected).all()


FILLED = {mode: Image.new(mode, (8, 8), 100) for mode in ("L", "I;16", "I;16L", "I;16B", "I;16N")}
IN_MEMORY = FILLED | {mode: FILLED["L"].convert(mode) for mode in ("LA", "RGB", "RGBA", "RGBX", "YCbCr", "CMYK", "HSV")}
IN_MEMORY |= {mode: IN_MEMORY[mode[:-1] + "A"].convert(mode) for mode in ("La", "RGBa")}
IN_MEMORY |= {"P": FILLED["L"].convert("P"), "PA": FILLED["L"].convert("P").convert("PA")}


@pytest.mark.parametrize("mode", IN_MEMORY)
def test_an_image_of_any_mode_keeps_its_pixels(mode):
    expected = 100 if not mode.startswith("I") else 100 >> 8
    np.testing.assert_allclose(prepare(IN_MEMORY[mode], (1, 8, 8)).pixels, expected, atol=1)


STORED = {
    "cmyk.tif": lambda path: picture(0).convert("CMYK").save(path),
    "palette.png": lambda path: picture(0).quantize(256).save(path),
    "palette.gif": lambda path: picture(0).quantize(64).save(path),
    "animated.gif": lambda path: picture(0).save(path, save_all=True, append_images=[picture(1)]),
    "animated.png": lambda path: picture(0).save(path, save_all=True, append_images=[picture(1)]),
    "animated.webp": lambda path: picture(0).save(path, save_all=True, append_images=[picture(1)], lossless=True),
}


@pytest.mark.parametrize("name", STORED)
def test_whatever_it_is_stored_as_the_first_picture_is_read(tmp_path, name):
    STORED[name](fill(tmp_path / "images", 0) / name)
    stored = Image.open(tmp_path / "images" / name).convert("RGB")
    np.testing.assert_array_equal(pixels(open_images(tmp_path / "images", SHAPE))[0], np.asarray(stored))
    np.testing.assert_allclose(np.asarray(stored), np.asarray(picture(0)), atol=0 if "gif" not in name else 64)


@pytest.mark.parametrize(
    ("dtype", "value", "reason"),
    [(np.float32, 0.5, "floating-point values"), (np.int32, 200, "integers of 32 bits"), (np.int32, 40_000, "integ")],
)
def test_pixels_of_an_unknown_range_are_no_image(tmp_path, dtype, value, reason):
    """Scaled by a range that is guessed they would become black, or white, and nothing would tell."""
    light = filled(value, dtype)
    light.save(fill(tmp_path / "images", 1, "L") / "light.tif")
    (only,) = open_images(tmp_path / "images", (1, 8, 8)).skipped
    assert only.startswith(f"light.tif: {reason}") and only.endswith(", whose range is not known")
    with pytest.raises(DtkError, match="whose range is not known"):
        open_examples([light], (1, 8, 8), None, None)


def test_signed_words_have_no_known_range_either():
    content = saved(filled(200, np.uint16), "TIFF", tiffinfo={ExifTags.Base.SampleFormat: 2})
    with pytest.raises(UnreadableImageError, match="integers"):
        decode(content, (1, 8, 8))


def test_transparency_is_laid_on_black(tmp_path):
    (tmp_path / "images").mkdir()
    Image.new("RGBA", (8, 8), (200, 100, 50, 0)).save(tmp_path / "images" / "clear.png")
    assert (pixels(open_images(tmp_path / "images", SHAPE)) == 0).all()


@pytest.mark.parametrize("channels", [2, 4])
def test_models_of_other_channels_want_arrays(tmp_path, channels):
    with pytest.raises(DtkError, match=f"a model of {channels} channels"):
        open_images(fill(tmp_path / "images"), (channels, 8, 8))
    stored = np.zeros((5, 8, 8, channels), np.uint8)
    np.savez(tmp_path / "x.npz", stored)
    assert len(open_images(tmp_path / "x.npz", (channels, 8, 8))) == 5


def test_empty_folder(tmp_path):
    with pytest.raises(DtkError, match=r"No images in .*\n  found: no files\n  expected: image files"):
        open_images(tmp_path, SHAPE)


def test_folder_without_an_image_says_what_is_there(tmp_path):
    for number in range(5):
        (tmp_path / f"{number}.txt").write_text("words")
    with pytest.raises(DtkError, match=r"5 files, none of them .*0\.txt: not an image.*and 2 more"):
        open_images(tmp_path, SHAPE)


@pytest.mark.parametrize("source", ["/nowhere/at/all", "./missing", "missing.zip", "missing.npz"])
def test_nothing_there(source):
    with pytest.raises(DtkError, match="No such data"):
        open_images(source, SHAPE)


def test_a_file_that_is_no_set_of_images(tmp_path):
    (tmp_path / "images.tar").write_bytes(b"x")
    with pytest.raises(DtkError, match="is not a set of images"):
        open_images(tmp_path / "images.tar", SHAPE)


def test_damaged_zip(tmp_path):
    (tmp_path / "images.zip").write_bytes(b"PK\x03\x04 cut")
    with pytest.raises(DtkError, match="is not a readable zip"):
        open_images(tmp_path / "images.zip", SHAPE)


def test_truncated_npz(tmp_path):
    np.savez(tmp_path / "x.npz", np.zeros((9, 8, 8, 3), np.uint8))
    content = (tmp_path / "x.npz").read_bytes()
    (tmp_path / "x.npz").write_bytes(content[: len(content) // 2])
    with pytest.raises(DtkError, match=r"Cannot read .*x\.npz"):
        open_images(tmp_path / "x.npz", SHAPE)


def test_pickled_npz_is_refused(tmp_path):
    np.savez(tmp_path / "x.npz", np.array([{"a": 1}], dtype=object))
    with pytest.raises(DtkError, match="allow_pickle"):
        open_images(tmp_path / "x.npz", SHAPE)


@pytest.mark.parametrize(
    ("stored", "words"),
    [
        (np.zeros((4, 8, 8, 3), np.float32), "a float32 array"),
        (np.zeros((4, 8, 8), np.uint8), r"shape \(4, 8, 8, 1\)"),
        (np.zeros((0, 8, 8, 3), np.uint8), r"shape \(0, 8, 8, 3\)"),
        (np.zeros((2, 0, 0, 3), np.uint8), r"shape \(2, 0, 0, 3\)"),
        (np.zeros((2, 8, 8, 3), np.uint16), "a uint16 array"),
    ],
)
def test_npz_of_something_else(tmp_path, stored, words):
    np.savez(tmp_path / "x.npz", stored)
    with pytest.raises(DtkError, match=words):
        open_images(tmp_path / "x.npz", SHAPE)


def claims_terabytes(path: Path) -> None:
    header = io.BytesIO()
    shape = (10**9, 64, 64, 3)
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": shape})
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("images.npy", header.getvalue())


def single_array(path: Path) -> None:
    with path.open("wb") as stream:
        np.save(stream, np.zeros((2, 8, 8, 3), np.uint8))


@pytest.mark.parametrize("write", [claims_terabytes, single_array, Path.touch])
def test_what_is_no_npz_inside(tmp_path, write):
    write(tmp_path / "x.npz")
    with pytest.raises(DtkError, match=r"Cannot read .*x\.npz"):
        open_images(tmp_path / "x.npz", SHAPE)


def test_npz_with_several_arrays(tmp_path):
    np.savez(tmp_path / "x.npz", first=np.zeros(1), second=np.zeros(1))
    with pytest.raises(DtkError, match="first, second"):
        open_images(tmp_path / "x.npz", SHAPE)


def test_too_few_images(tmp_path):
    images = open_images(bad_files(tmp_path / "images"), SHAPE)
    images.require(4, "one batch")
    with pytest.raises(DtkError, match=r"for one batch") as error:
        images.require(64, "one batch")
    assert "4 images (3 files were skipped)" in str(error.value)
    assert "at least 64" in str(error.value)


def test_embedded_images_are_padded_and_pooled():
    images = open_images(None, (1, 16, 16))
    whole = open_images(None, (1, 32, 32))
    assert len(images) == 10_000
    full = whole.read_uint8([3, 9_999]).astype(float)
    pooled = full.reshape(2, 16, 2, 16, 2).mean(axis=(2, 4))
    np.testing.assert_allclose(images.read_uint8([3, 9_999])[..., 0], pooled, atol=0.5)
    assert (full[:, :2] == 0).all()
    assert "mean-pooled 2x2" in images.preparation


def test_embedded_images_do_not_fit_every_model():
    with pytest.raises(DtkError, match="a model of 3 channels at 32x32"):
        open_images(None, (3, 32, 32))


def test_progress_ends_at_the_total(tmp_path):
    told = []
    open_images(fill(tmp_path / "images"), SHAPE, lambda *report: told.append(report))
    assert told[-1] == ("reading images", 4, 4)


def test_files_are_read_a_few_at_a_time_in_their_order(tmp_path, monkeypatch):
    monkeypatch.setattr("toolkit.data.decoded.AT_ONCE", 3)
    folder, read = fill(tmp_path / "images", 8), []
    monkeypatch.setattr("toolkit.data.decoded.decode", lambda *given: read.append(1) or decode(*given))

    def told(work, done, total):
        assert done <= len(read) <= -(-done // 3) * 3, "the next few are not begun before these are told of"

    np.testing.assert_array_equal(pixels(open_images(folder, SHAPE, told)), [np.asarray(picture(n)) for n in range(8)])


def test_hub_without_its_package_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingToolError, match="pip install datasets"):
        open_images("somebody/pictures", SHAPE)


def test_fingerprint_tells_subsets_and_preparations_apart(tmp_path):
    folder = fill(tmp_path / "images", size=(16, 16))
    images = open_images(folder, SHAPE)
    others = [images, images.subset([0, 1]), images.subset([1, 0]), open_images(folder, (3, 4, 4))]
    assert len({one.fingerprint for one in others}) == 4
    assert images.subset([1, 3]).subset([1]).numbers == (3,)


def test_sha256_changes_with_any_file(tmp_path):
    before = open_images(fill(tmp_path / "images"), SHAPE).sha256
    picture(99).save(tmp_path / "images" / "002.png")
    assert open_images(tmp_path / "images", SHAPE).sha256 != before
    assert len(before) == len(hashlib.sha256().hexdigest())
