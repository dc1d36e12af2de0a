"""Classes and captions come with the images, whatever the images are stored in."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.data.pictures import SHAPE, fill, pixels, zipped
from toolkit.core.errors import DtkError
from toolkit.data.conditions import of_names
from toolkit.data.images import Images
from toolkit.data.open import open_images
from toolkit.models.conditioning import Conditioning, check_data


def metadata(folder: Path, *entries: dict) -> None:
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, entries)))


@pytest.mark.parametrize(
    ("names", "classes", "class_names"),
    [
        (["b/1.png", "a/1.png", "b/2.png"], (1, 0, 1), ("a", "b")),
        (["7/1.png", "12/1.png"], (7, 12), ()),
        (["top/b/deep/1.png", "top/a/1.png"], (1, 0), ("a", "b")),
        (["1.png", "a/1.png"], None, ()),
        (["README.txt", "a/1.png", "b/1.png", "notes/1.txt"], (None, 0, 1, None), ("a", "b")),
        (["a/1", "b/1"], (0, 1), ("a", "b")),
        (["a/1.png", "a/2.png"], None, ()),
        ([], None, ()),
    ],
)
def test_subfolders_are_classes(names, classes, class_names) -> None:
    found = of_names(names)
    assert found.values.get("class") == classes
    assert found.class_names == class_names


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_a_folder_a_class(tmp_path: Path, kind: str) -> None:
    for name in ("cat", "dog"):
        fill(tmp_path / "data" / name, 2)
    (tmp_path / "data" / "cat" / "broken.png").write_bytes(b"no image")
    source = tmp_path / "data" if kind == "folder" else zipped(tmp_path / "data", tmp_path / "data.zip")
    images = open_images(source, SHAPE)
    assert images.conditions("class", range(4)) == [0, 0, 1, 1], "a bad image shifts no class"
    assert images.subset([3, 0]).conditions("class", [0, 1]) == [1, 0]
    assert images.conditions("caption", [0]) == [None]


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_captions_and_classes_of_metadata(tmp_path: Path, kind: str) -> None:
    fill(tmp_path / "data", 3)
    names = sorted(path.name for path in (tmp_path / "data").iterdir())
    metadata(
        tmp_path / "data",
        {"file_name": names[2], "text": "a dog"},
        {"file_name": names[0], "text": "a cat", "label": 4},
    )
    source = tmp_path / "data" if kind == "folder" else zipped(tmp_path / "data", tmp_path / "data.zip")
    images = open_images(source, SHAPE)
    assert images.skipped == ()
    assert images.conditions("caption", range(3)) == ["a cat", None, "a dog"]
    assert images.conditions("class", range(3)) == [4, None, None]


def test_a_caption_may_hold_what_ends_a_line_elsewhere(tmp_path: Path) -> None:
    fill(tmp_path / "data", 2)
    names = sorted(path.name for path in (tmp_path / "data").iterdir())
    captions = ["a cat\u2028on a mat", "a\x85dog"]
    entries = [{"file_name": name, "text": text} for name, text in zip(names, captions, strict=True)]
    lines = "\r\n".join(json.dumps(entry, ensure_ascii=False) for entry in entries)
    (tmp_path / "data" / "metadata.jsonl").write_bytes(lines.encode("utf-8-sig"))
    assert open_images(tmp_path / "data", SHAPE).conditions("caption", range(2)) == captions


def test_labels_and_captions_of_an_npz(tmp_path: Path) -> None:
    fill(tmp_path / "data", 3)
    stored = pixels(open_images(tmp_path / "data", SHAPE))
    np.savez(tmp_path / "a.npz", x=stored, labels=np.array([2, 0, 1]), captions=np.array(["a", "b", "c"]))
    images = open_images(tmp_path / "a.npz", SHAPE)
    assert images.conditions("class", [0, 1]) == [2, 0]
    assert images.conditions("caption", [2]) == ["c"]


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"labels": np.array([1, 2])}, r"labels of .* does not hold one class per image[\s\S]*\(2,\)[\s\S]*\(3,\)"),
        ({"labels": np.array([0.5, 1, 2])}, r"labels does not hold one class per image[\s\S]*0.5"),
        ({"captions": np.array([1, 2, 3])}, r"captions does not hold one caption per image[\s\S]*text"),
    ],
)
def test_arrays_that_are_no_conditions(tmp_path: Path, arrays: dict, words: str) -> None:
    fill(tmp_path / "data", 3)
    np.savez(tmp_path / "a.npz", images=pixels(open_images(tmp_path / "data", SHAPE)), **arrays)
    with pytest.raises(DtkError, match=words):
        open_images(tmp_path / "a.npz", SHAPE)


@pytest.mark.parametrize("line", ["{", '["a.png"]', '{"text": "no file"}'])
def test_a_line_that_describes_no_image(tmp_path: Path, line: str) -> None:
    fill(tmp_path, 2)
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "0.png", "text": "a"}\n' + line)
    with pytest.raises(DtkError, match=r"Line 2 of metadata.jsonl[\s\S]*file_name"):
        open_images(tmp_path, SHAPE)


def test_conditions_are_part_of_the_fingerprint(tmp_path: Path) -> None:
    fill(tmp_path, 2)
    names = sorted(path.name for path in tmp_path.iterdir())
    found = {open_images(tmp_path, SHAPE).fingerprint}
    for caption in ("a cat", "a dog"):
        metadata(tmp_path, {"file_name": names[0], "text": caption})
        found.add(open_images(tmp_path, SHAPE).fingerprint)
    assert len(found) == 3


@pytest.fixture
def cats_and_dogs(tmp_path: Path) -> Images:
    for name in ("cat", "dog"):
        fill(tmp_path / name, 2)
    return open_images(tmp_path, SHAPE)


def test_subfolders_must_be_all_of_the_models_classes(cats_and_dogs: Images) -> None:
    assert check_data(Conditioning("class", 2, True, 1), cats_and_dogs) is None
    with pytest.raises(DtkError, match=r"not the model's classes[\s\S]*2 subfolders: cat, dog[\s\S]*1000"):
        check_data(Conditioning("class", 1000, True, 1), cats_and_dogs)


def test_data_without_conditions_is_told_or_refused(tmp_path: Path, cats_and_dogs: Images) -> None:
    said = check_data(Conditioning("caption", 0, True, 77), cats_and_dogs)
    assert said is not None and "brings no captions: the null condition stands in" in said
    fill(tmp_path / "plain", 2)
    with pytest.raises(DtkError, match="no null class"):
        check_data(Conditioning("class", 2, False), open_images(tmp_path / "plain", SHAPE))
    assert check_data(Conditioning("none"), cats_and_dogs) is None


def test_some_conditions_missing_are_counted(tmp_path: Path) -> None:
    fill(tmp_path, 3)
    metadata(tmp_path, {"file_name": sorted(path.name for path in tmp_path.iterdir())[0], "caption": "a cat"})
    said = check_data(Conditioning("caption", 0, True, 77), open_images(tmp_path, SHAPE))
    assert said is not None and "brings 1 of 3 captions" in said
