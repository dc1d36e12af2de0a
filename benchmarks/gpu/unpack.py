"""Joins the parts beside this file: ``python3 unpack.py FOLDER``. Needs Python alone, and zstd or the wheel beside it.

Parts may arrive one after another: what is missing or damaged is named. Of the kind trt86 it also writes
FOLDER/trt86-python, for $DTK_TRT86; for the others set PYTHONPATH=FOLDER.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path
from typing import BinaryIO

HERE = Path(__file__).resolve().parent
START = """#!/bin/sh
export PYTHONHOME={0}/python PYTHONPATH={0} PYTHONNOUSERSITE=1 LD_LIBRARY_PATH={0}/python/lib:{0}/tensorrt
exec {0}/python/bin/python3.10 "$@"
"""


def main(folder: Path) -> None:
    """Check, join and unpack."""
    manifest = json.loads((HERE / "manifest.json").read_text())
    for name, sha256 in manifest["parts"].items():
        if not (HERE / name).is_file():
            raise SystemExit(f"{name} of {len(manifest['parts'])} parts is missing in {HERE}.")
        if hashlib.sha256((HERE / name).read_bytes()).hexdigest() != sha256:
            raise SystemExit(f"{name} is damaged.")
    folder.mkdir(parents=True, exist_ok=True)
    whole = folder / "whole.tar"
    with whole.open("wb") as target:
        decode([HERE / name for name in manifest["parts"]], target)
    with tarfile.open(whole) as archive:
        archive.extractall(folder, filter="tar")
    whole.unlink()
    if manifest["kind"] == "trt86":
        program = folder / "trt86-python"
        program.write_text(START.format(folder.resolve()))
        program.chmod(0o755)
    print(f"{manifest['kind']} lies in {folder}")


def decode(parts: list[Path], target: BinaryIO) -> None:
    """The archive of these parts, by the command zstd or by the wheel backports.zstd."""
    if shutil.which("zstd"):
        process = subprocess.Popen(["zstd", "-q", "-d", "--long=31", "-c"], stdin=subprocess.PIPE, stdout=target)
        assert process.stdin is not None
        for part in parts:
            process.stdin.write(part.read_bytes())
        process.stdin.close()
        if process.wait():
            raise SystemExit("zstd failed: the parts are whole, but not what it packed.")
        return
    (wheel,) = HERE.glob("backports*zstd*.whl")
    place = tempfile.mkdtemp()
    zipfile.ZipFile(wheel).extractall(place)
    sys.path.insert(0, place)
    from backports.zstd import DecompressionParameter, ZstdDecompressor

    decoder = ZstdDecompressor(options={DecompressionParameter.window_log_max: 31})
    for part in parts:
        target.write(decoder.decompress(part.read_bytes()))


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else os.environ.get("SITE", "site")))
