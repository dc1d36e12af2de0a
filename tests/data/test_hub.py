"""The `datasets` package itself, on a data set that lies on the disk."""

from __future__ import annotations

import numpy as np
import pytest

from tests.data.pictures import SHAPE, fill, picture
from toolkit.core.errors import DtkError
from toolkit.data.decoded import images_of_files
from toolkit.data.hub import hub_files
from toolkit.data.open import open_images

pytest.importorskip("datasets", reason="the package datasets is not installed (it is optional)")


@pytest.fixture
def somewhere(tmp_path, monkeypatch):
    """A folder in which ``somebody/pictures`` is a data set: load_dataset looks there before it asks the hub."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    return tmp_path


def test_images_of_a_data_set(somewhere):
    fill(somewhere / "somebody" / "pictures" / "train", 3)
    images = images_of_files(hub_files("somebody/pictures"), SHAPE)
    np.testing.assert_array_equal(images.read_uint8(range(3)), [np.asarray(picture(number)) for number in range(3)])
    assert images.source == "somebody/pictures"


def test_split_by_name(somewhere):
    fill(somewhere / "somebody" / "pictures" / "train", 3)
    fill(somewhere / "somebody" / "pictures" / "test", 2)
    assert len(hub_files("somebody/pictures:test").names) == 2
    with pytest.raises(DtkError, match="No such data: somebody/pictures:nothing"):
        hub_files("somebody/pictures:nothing")


@pytest.mark.parametrize("count", [5, 99])
def test_streamed_rows_are_the_first_ones(somewhere, count):
    for name in ("cat", "dog"):
        fill(somewhere / "somebody" / "pictures" / "train" / name, 4)
    whole, streamed = hub_files("somebody/pictures"), hub_files("somebody/pictures", count)
    expected = min(count, 8)
    assert [streamed.read(n) for n in range(len(streamed.names))] == [whole.read(n) for n in range(expected)]
    assert streamed.conditions.values["class"] == whole.conditions.values["class"][:expected]
    assert streamed.conditions.values["class"][3:5] == (0, 1)


def test_a_bad_row_of_a_stream_is_counted_and_left_out(somewhere):
    folder = fill(somewhere / "somebody" / "pictures" / "train", 4)
    (folder / "001.png").write_bytes(b"no picture")
    told = []
    streamed = hub_files("somebody/pictures", 4, lambda *report: told.append(report))
    images = images_of_files(streamed, SHAPE)
    assert len(images) == 3 and len(images.skipped) == 1
    assert told[-1] == ("streaming images", 4, 4)


def test_what_is_here_is_not_streamed(somewhere):
    with pytest.raises(DtkError, match=r"it is here already[\s\S]*data.stream"):
        open_images(fill(somewhere / "pictures"), SHAPE, stream=3)


def test_data_set_without_images(somewhere):
    (somewhere / "somebody" / "words").mkdir(parents=True)
    (somewhere / "somebody" / "words" / "train.csv").write_text("a,b\n1,2\n")
    with pytest.raises(DtkError, match=r"has no images") as error:
        hub_files("somebody/words")
    assert "the columns a, b" in str(error.value)
