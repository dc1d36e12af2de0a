"""The code blocks of a page, and a folder that holds what they speak of at sizes that cost nothing."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from tests.architecture.source import ROOT
from tests.importing.ddim_network import random_state
from tests.tiny import SMALLEST, tiny_folder
from toolkit.core.noise import generator

PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
SIDE = 8
SMALL: dict[str, object] = SMALLEST | {"block_out_channels": (64,)}
"""A network that can have 0.57 of its MACs."""


def blocks(page: Path, language: str) -> list[str]:
    """The code blocks of a language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def commands(page: Path) -> list[list[str]]:
    """The words of each line of the page's shell blocks that starts with dtk, comments and variables left out."""
    lines = [shlex.split(line, comments=True) for block in blocks(page, "sh") for line in block.splitlines()]
    lines = [[word for word in line if not re.match(r"[A-Z_]+=", word)] for line in lines]
    return [line[1:] for line in lines if line[:1] == ["dtk"]]


def furnish(folder: Path) -> None:
    """Write what the pages name: path/to/pipeline, images/, images.npz, model.ckpt and benchmarks/."""
    tiny_folder(folder / "path" / "to" / "pipeline", sample_size=SIDE, **SMALL)
    pixels = generator("pages", 0).integers(0, 256, (160, 3, SIDE, SIDE), dtype=np.uint8)
    np.savez(folder / "images.npz", images=pixels)
    (folder / "images").mkdir()
    for number, image in enumerate(pixels):
        Image.fromarray(image.transpose(1, 2, 0)).save(folder / "images" / f"{number}.png")
    torch.save(random_state(32, (1, 2), 1, 1), folder / "model.ckpt")
    (folder / "benchmarks").symlink_to(ROOT / "benchmarks")
