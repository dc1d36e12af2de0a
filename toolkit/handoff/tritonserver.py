"""Where a tritonserver comes from: nvidia-pytriton's in a virtual environment, or one on PATH."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from toolkit.core.errors import DtkError, MissingToolError

INSTALL = (
    "python3 -m venv .venv-server && .venv-server/bin/pip install --no-deps nvidia-pytriton==0.7.0 "
    "&& .venv-server/bin/pip install 'numpy<2' onnxruntime tokenizers, then dtk serve RUN --environment .venv-server"
)
ASK = """
import importlib.util, json, sys, sysconfig
from importlib.metadata import PackageNotFoundError, version
def installed(name):
    try:
        return version(name)
    except PackageNotFoundError:
        return None
print(json.dumps({
    "python": "%d.%d" % sys.version_info[:2],
    "packages": sysconfig.get_path("purelib"),
    "libraries": sysconfig.get_config_var("LIBDIR"),
    "pytriton": installed("nvidia-pytriton"),
    "numpy": installed("numpy"),
    "onnxruntime": installed("onnxruntime") or installed("onnxruntime-gpu"),
}))
"""


@dataclass(frozen=True)
class TritonServer:
    """A server program, its folder of backends (None for its own default) and the environment it runs in."""

    program: Path
    backends: Path | None
    environment: dict[str, str]


def find(environment: Path | None, workspace: Path) -> TritonServer:
    """The server of ``environment``, else of this one, else on PATH. ``workspace`` receives a folder of backends.

    Raises MissingToolError if there is none, DtkError if the environment's packages cannot carry a model.
    """
    if environment is not None:
        return _from_environment(_facts(_python(environment)), environment, workspace)
    own = _facts(Path(sys.executable))
    if own["pytriton"] and _numpy_is_old(own):
        return _from_environment(own, Path(sys.prefix), workspace)
    on_path = shutil.which("tritonserver")
    if on_path is None:
        raise MissingToolError("There is no tritonserver.", found="none on PATH and no --environment", do=INSTALL)
    return TritonServer(Path(on_path), None, dict(os.environ))


def _python(environment: Path) -> Path:
    python = environment.absolute() / "bin" / "python"
    if not python.is_file():
        raise DtkError(f"{environment} is not a virtual environment.", found=f"no {python}", do=INSTALL)
    return python


def _facts(python: Path) -> dict[str, str | None]:
    done = subprocess.run([python, "-I", "-c", ASK], capture_output=True, text=True, check=True)
    facts: dict[str, str | None] = json.loads(done.stdout)
    return facts


def _numpy_is_old(facts: dict[str, str | None]) -> bool:
    return (facts["numpy"] or "").startswith("1.")


def _from_environment(facts: dict[str, str | None], environment: Path, workspace: Path) -> TritonServer:
    lacking = [name for name in ("pytriton", "onnxruntime") if not facts[name]]
    if lacking or not _numpy_is_old(facts):
        raise MissingToolError(
            f"The environment {environment} cannot serve.",
            found=", ".join(f"{name} {facts[name] or 'missing'}" for name in ("pytriton", "numpy", "onnxruntime")),
            expected="nvidia-pytriton, onnxruntime, and numpy 1 (its Python backend was built for that)",
            do=INSTALL,
        )
    packages = Path(str(facts["packages"]))
    home = packages / "pytriton" / "tritonserver"
    libraries = [packages / "nvidia_pytriton.libs", Path(str(facts["libraries"]))]
    return TritonServer(
        home / "bin" / "tritonserver",
        _backends(home, str(facts["python"]), workspace),
        {
            **{name: value for name, value in os.environ.items() if not name.startswith("PYTHON")},
            "PATH": f"{environment.absolute() / 'bin'}:{os.environ.get('PATH', os.defpath)}",
            "LD_LIBRARY_PATH": ":".join(map(str, libraries)),
        },
    )


def _backends(home: Path, python: str, workspace: Path) -> Path:
    """A folder of backends in which the Python backend has the stub of this Python, as links to the package's files."""
    stub = home / "python_backend_stubs" / python / "triton_python_backend_stub"
    if not stub.is_file():
        raise DtkError(f"This nvidia-pytriton has no backend for Python {python}.", found=f"no {stub}")
    folder = workspace / "backends" / "python"
    folder.mkdir(parents=True)
    for file in [stub, *(home / "backends" / "python").iterdir()]:
        (folder / file.name).symlink_to(file)
    return folder.parent
