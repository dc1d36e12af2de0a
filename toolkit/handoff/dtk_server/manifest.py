"""The manifest next to the model: what must be true before a server answers."""

from __future__ import annotations

import hashlib
import json
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from .refusal import UnfitError

FILE = "handoff.json"
SCHEMA_VERSION = 2


def read(model_directory: Path, model_version: str) -> dict[str, Any]:
    """The manifest of a model version, after its files and this environment were found to fit it. Raises UnfitError."""
    path = model_directory / model_version / FILE
    try:
        manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UnfitError(f"Cannot read {path}: {error}") from error
    if manifest.get("schema_version") != SCHEMA_VERSION:
        raise UnfitError(
            f"{path} has schema version {manifest.get('schema_version')}, this server reads {SCHEMA_VERSION}."
        )
    check_files(manifest, model_directory)
    check_versions(manifest["requires"])
    return manifest


def check_files(manifest: dict[str, Any], model_directory: Path) -> None:
    """Every file of the model is there and is the one that was handed off."""
    prefix = PurePosixPath(manifest["repository"], manifest["model"])
    for name, sha256 in manifest["files"].items():
        path = PurePosixPath(name)
        if path.is_relative_to(prefix):
            _check_file(inside(model_directory, path.relative_to(prefix)), name, sha256)


def inside(folder: Path, name: PurePosixPath) -> Path:
    """``name`` below ``folder``; a path that leaves it, by itself or through a link, is refused."""
    path = folder / name
    if name.is_absolute() or ".." in name.parts or not path.resolve().is_relative_to(folder.resolve()):
        raise UnfitError(f"The manifest names {name}, which lies outside of the model's folder.")
    return path


def _check_file(path: Path, name: str, sha256: str) -> None:
    if not path.is_file():
        raise UnfitError(f"{name} is missing.")
    with path.open("rb") as stream:
        digest = hashlib.sha256()
        while block := stream.read(2**20):
            digest.update(block)
    if digest.hexdigest() != sha256:
        raise UnfitError(f"{name} is damaged or was changed: SHA-256 {digest.hexdigest()}, handed off was {sha256}.")


def check_versions(requires: dict[str, str]) -> None:
    """Every required package has at least the version the model was tried with."""
    for package, least in requires.items():
        installed = _version(package)
        if installed is None or _numbers(installed) < _numbers(least):
            raise UnfitError(f"This model needs {package} {least} or newer; installed is {installed or 'none'}.")


def _version(package: str) -> str | None:
    for name in (package, f"{package}-gpu"):
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return None


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".")[:2])


def check_image(computed: np.ndarray, model_directory: Path, manifest: dict[str, Any]) -> None:
    """The image of the manifest's seed, uint8 (C, H, W), is the one it was handed off with."""
    expected = manifest["expected"]
    prefix = PurePosixPath(manifest["repository"], manifest["model"])
    name = PurePosixPath(expected["file"]).relative_to(prefix)
    image = np.load(inside(model_directory, name), allow_pickle=False)
    apart = int(np.abs(computed.astype(int) - image.astype(int)).max())
    if apart > expected["tolerance"]:
        raise UnfitError(
            f"The image of seed {expected['seed']} is off by {apart}/255, allowed are {expected['tolerance']}/255: "
            "this runtime does not compute what was handed off."
        )
