"""The engine cache: what is found again, what is rebuilt and why, and two processes that want the same."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import signal
import time
from collections.abc import Mapping
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import pytest

from exporters.engine_cache import CachedEngine, EngineCache, cache_folder
from toolkit.core.errors import DtkError
from toolkit.core.files import replacing

FACTS = {"onnx": "a1", "builder": "tensorrt_rtx", "version": "1.7.1", "gpu": None, "batch": "1:8:64", "targets": []}
PLAN = b"a plan"


class Builder:
    """Counts its builds."""

    def __init__(self) -> None:
        self.builds = 0

    def __call__(self) -> tuple[bytes, dict[str, Any]]:
        self.builds += 1
        return PLAN, {"build_s": 1.5}


def get(cache: EngineCache, builder: Any, facts: Mapping[str, Any] = FACTS) -> CachedEngine:
    return cache.get(facts, builder, lambda: pytest.fail("nobody else builds"))


def test_an_engine_is_built_once_and_described(tmp_path: Path) -> None:
    cache, builder = EngineCache(tmp_path), Builder()
    first, second = get(cache, builder), get(cache, builder)
    assert builder.builds == 1
    assert first.reason == "no engine of this ONNX file was built before"
    assert second.reason is None
    assert second.plan.read_bytes() == PLAN
    description = second.description
    assert description["facts"] == FACTS
    assert description["build_s"] == 1.5


CHANGES = [
    {"version": "1.6.1"},
    {"gpu": "H200"},
    {"batch": "8:8:8"},
    {"targets": ["sm89"]},
    {"version": "2", "gpu": "B200"},
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: "+".join(change))
def test_a_change_rebuilds_and_says_what_changed(tmp_path: Path, change: dict[str, Any]) -> None:
    cache, builder = EngineCache(tmp_path), Builder()
    get(cache, builder)
    reason = get(cache, builder, FACTS | change).reason
    assert reason == "; ".join(f"{name} is {change[name]}, was {FACTS[name]}" for name in sorted(change))
    assert builder.builds == 2
    assert get(cache, builder).reason is None, "the first engine is still there"


def test_another_onnx_file_is_another_engine(tmp_path: Path) -> None:
    cache, builder = EngineCache(tmp_path), Builder()
    get(cache, builder)
    assert get(cache, builder, FACTS | {"onnx": "b2"}).reason == "no engine of this ONNX file was built before"


def damage_plan(entry: CachedEngine) -> None:
    entry.plan.write_bytes(PLAN[:-1] + b"X")


def cut_plan(entry: CachedEngine) -> None:
    entry.plan.write_bytes(PLAN[:3])


def remove_plan(entry: CachedEngine) -> None:
    entry.plan.unlink()


def damage_description(entry: CachedEngine) -> None:
    (entry.folder / "engine.json").write_text('{"sha256": ')


def empty_description(entry: CachedEngine) -> None:
    (entry.folder / "engine.json").write_text("[]")


@pytest.mark.parametrize("damage", [damage_plan, cut_plan, remove_plan, damage_description, empty_description])
def test_a_damaged_engine_is_rebuilt_never_used(tmp_path: Path, damage: Any) -> None:
    cache, builder = EngineCache(tmp_path), Builder()
    damage(get(cache, builder))
    again = get(cache, builder)
    assert again.reason == "the engine in the cache was damaged"
    assert again.plan.read_bytes() == PLAN
    assert json.loads((again.folder / "engine.json").read_text())["built_because"] == again.reason


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError("No space left on device"), RuntimeError])
def test_a_build_that_fails_leaves_the_cache_usable(tmp_path: Path, error: Any) -> None:
    def failing() -> tuple[bytes, dict[str, Any]]:
        raise error

    cache, builder = EngineCache(tmp_path), Builder()
    kept = get(cache, builder, FACTS | {"onnx": "b2"})
    with pytest.raises(type(error) if isinstance(error, Exception) else error):
        get(cache, failing)
    assert kept.plan.read_bytes() == PLAN
    assert get(cache, builder).reason == "no engine of this ONNX file was built before"


def test_a_full_disk_is_said_and_leaves_the_cache_usable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, content: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    cache, builder = EngineCache(tmp_path), Builder()
    kept = get(cache, builder, FACTS | {"onnx": "b2"})
    with monkeypatch.context() as patched, pytest.raises(DtkError, match="No space left on device"):
        patched.setattr(Path, "write_bytes", full)
        get(cache, builder)
    assert [path for path in tmp_path.iterdir() if path.is_dir()] == [kept.folder]
    assert get(cache, builder).plan.read_bytes() == PLAN


def _killed_writer(entry: Path) -> None:
    with replacing(entry) as folder:
        folder.mkdir()
        os.kill(os.getpid(), signal.SIGKILL)


def test_what_a_killed_build_left_is_cleared(tmp_path: Path) -> None:
    cache, builder = EngineCache(tmp_path), Builder()
    entry = get(cache, builder).folder
    killed = multiprocessing.get_context("fork").Process(target=_killed_writer, args=(entry,))
    killed.start()
    killed.join()
    assert [path for path in tmp_path.iterdir() if path.is_dir() and path != entry], "the kill came while it wrote"
    get(cache, builder)
    assert [path for path in tmp_path.iterdir() if path.is_dir()] == [entry]


def _slow_builder(folder: Path, building: Event, proceed: Event, answers: Any) -> None:
    def build() -> tuple[bytes, dict[str, Any]]:
        building.set()
        assert proceed.wait(30)
        return PLAN, {}

    answers.put(("first", EngineCache(folder).get(FACTS, build, lambda: None).reason))


def _second(folder: Path, waiting: Event, answers: Any) -> None:
    def build() -> tuple[bytes, dict[str, Any]]:
        raise AssertionError("both built")

    answers.put(("second", EngineCache(folder).get(FACTS, build, waiting.set).reason))


def test_of_two_that_want_the_same_one_builds_and_the_other_waits(tmp_path: Path) -> None:
    fork = multiprocessing.get_context("fork")
    building, proceed, waiting, answers = fork.Event(), fork.Event(), fork.Event(), fork.SimpleQueue()
    first = fork.Process(target=_slow_builder, args=(tmp_path, building, proceed, answers))
    second = fork.Process(target=_second, args=(tmp_path, waiting, answers))
    first.start()
    assert building.wait(30)
    second.start()
    assert waiting.wait(30), "the second did not wait"
    time.sleep(0.05)
    assert second.is_alive()
    proceed.set()
    first.join(30)
    second.join(30)
    found = dict(answers.get() for _ in range(2))
    assert found == {"first": "no engine of this ONNX file was built before", "second": None}


def test_the_cache_is_where_the_user_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DTK_CACHE", str(tmp_path / "mine"))
    assert cache_folder() == tmp_path / "mine" / "engines"
    monkeypatch.delenv("DTK_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "dtk" / "engines"
