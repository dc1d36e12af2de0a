"""Parts of what a machine without a package index lacks: wheels, engines' libraries, data.

A kind is a list of wheels, unpacked and thinned, or a folder as it is. It is packed by `zstd --long=31`, which finds
what a library repeats for each architecture, and cut. NVIDIA's files are not ours: parts are carried, never committed.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from benchmarks.gpu.thin import thin
from toolkit.core.files import file_sha256, write_json

Wheel = tuple[str, str]
"""Python version and requirement."""
DECODER: Wheel = ("3.12", "backports.zstd==1.8.0")  # for a machine without the command zstd
LACKED = (  # by an image of torch and its friends
    *("diffusers", "torch-pruning", "pydantic", "pydantic_core", "annotated-types", "typing-inspection", "requests"),
    *("charset-normalizer", "importlib_metadata"),
)


def pinned(name: str) -> str:
    """A package in the version of constraints.txt."""
    lines = (Path(__file__).parents[2] / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return next(line for line in lines if line.startswith(f"{name}=="))


KINDS: dict[str, list[Wheel]] = {
    "python": [("3.12", pinned(name)) for name in LACKED],
    "ort": [("3.12", "onnxruntime-gpu==1.31.1")],
    "rtx": [("3.12", "tensorrt-rtx-cu13-libs==1.6.1.120"), ("3.12", "tensorrt-rtx-cu13-bindings==1.6.1.120")],
    "trt86": [("3.10", "tensorrt==8.6.0"), ("3.10", "numpy==2.2.6")],
}
LEFT_OUT = {"ort": ("onnxruntime/transformers", "onnxruntime/capi/libonnxruntime_providers_tensorrt.so")}
PLATFORMS = [f"manylinux_2_{minor}_x86_64" for minor in (17, 24, 27, 28, 31, 34, 35)]
PLATFORMS += ["manylinux2014_x86_64", "manylinux1_x86_64", "any"]
STANDING_IN = ("libcublas", "libcudnn")
UNPACK = Path(__file__).with_name("unpack.py")


def pack(kind: str, out: Path, part_bytes: int, architecture: int | None = None) -> list[Path]:
    """Write the parts of ``kind`` (of KINDS, or a folder) and what joins them to ``out``; returns all files.

    Of KINDS, libraries keep the code for GPUs of ``architecture`` alone, such as 90 for compute capability 9.0;
    None = all.
    """
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    with tempfile.TemporaryDirectory(prefix="dtk-pack-") as scratch:
        source = Path(kind)
        if kind in KINDS:
            source = _staged(kind, Path(scratch) / "site")
            if architecture is not None:
                for library in filter(Path.is_file, source.rglob("*.so*")):
                    thin(library, architecture)
            (decoder,) = _wheels([DECODER], Path(scratch) / "decoder")
            shutil.copy(decoder, out)
        names = _cut(source, out, part_bytes)
    write_json(out / "manifest.json", {"kind": kind, "parts": {name: file_sha256(out / name) for name in names}})
    shutil.copy(UNPACK, out)
    return sorted(out.iterdir())


def _staged(kind: str, folder: Path) -> Path:
    """The wheels of a kind, unpacked into one folder, without what is not needed there."""
    for wheel in _wheels(KINDS[kind], folder.parent / "wheels"):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder)
    for name in LEFT_OUT.get(kind, ()):
        path = folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    if kind == "trt86":
        _write_stand_ins(folder / "tensorrt" / "libnvinfer_plugin.so.8", folder / "tensorrt")
        shutil.copytree(_python310(), folder / "python", symlinks=True, ignore=_IGNORED)
    return folder


_IGNORED = shutil.ignore_patterns(
    "site-packages", "test", "tests", "__pycache__", "config-3*", "idlelib", "tkinter", "*.a"
)


def _wheels(wanted: list[Wheel], folder: Path) -> list[Path]:
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:", "-d", str(folder)]
    platforms = [word for name in PLATFORMS for word in ("--platform", name)]
    for version in {version for version, _ in wanted}:
        requirements = [requirement for of, requirement in wanted if of == version]
        subprocess.run([*command, *platforms, "--python-version", version, *requirements], check=True)
    return sorted(folder.iterdir())


def _python310() -> Path:
    """The prefix of a Python 3.10, which the wheel of TensorRT 8.6.0 is for."""
    program = shutil.which("python3.10")
    ask = [program or "false", "-c", "import sys; print(sys.prefix)"]
    prefix = subprocess.run(ask, capture_output=True, text=True, check=False)
    if prefix.returncode:  # such as pyenv's, which is there for every version and starts one
        raise SystemExit(
            f"No Python 3.10 starts here ({program or 'python3.10 is not on PATH'}), which TensorRT 8.6.0 needs to be "
            "carried with: put one before the others on PATH."
        )
    return Path(prefix.stdout.strip())


def _write_stand_ins(library: Path, folder: Path) -> None:
    """Libraries that ``library`` names and never calls with our tactics: every function of them returns an error."""
    listed = subprocess.run(
        ["nm", "-D", "--undefined-only", library], capture_output=True, text=True, check=True
    ).stdout
    by_file: dict[str, list[str]] = {}
    for symbol, _, version in (line.split()[-1].partition("@") for line in listed.splitlines()):
        if version.lstrip("@").startswith(STANDING_IN):
            by_file.setdefault(version.lstrip("@"), []).append(symbol)
    for name, symbols in by_file.items():
        code, exports = folder / f"{name}.c", folder / f"{name}.map"
        code.write_text("".join(f"int {symbol}(void) {{ return 1; }}\n" for symbol in symbols))
        exports.write_text(f"{name} {{ global: {' '.join(f'{symbol};' for symbol in symbols)} local: *; }};\n")
        options = ["-shared", "-fPIC", f"-Wl,-soname,{name}", f"-Wl,--version-script={exports}"]
        subprocess.run(["gcc", *options, "-o", folder / name, code], check=True)
        code.unlink()
        exports.unlink()


def _cut(source: Path, out: Path, part_bytes: int) -> list[str]:
    """``source`` as a compressed archive in parts; returns their names in order."""
    names: list[str] = []
    tar = subprocess.Popen(["tar", "-C", source, "--sort=name", "-cf", "-", "."], stdout=subprocess.PIPE)
    packed = subprocess.Popen(["zstd", "-q", "-9", "--long=31", "-T0", "-c"], stdin=tar.stdout, stdout=subprocess.PIPE)
    assert packed.stdout is not None
    while block := packed.stdout.read(part_bytes):
        names.append(f"part-{len(names):02}")
        (out / names[-1]).write_bytes(block)
    if tar.wait() or packed.wait():
        raise SystemExit("tar or zstd failed.")
    return names
