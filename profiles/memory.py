"""Peak memory of a runner, measured in a fresh process, where nothing else has left its mark.

``python -m profiles.memory JOBS RESULT`` starts such processes: jobs are read as JSON, figures left as JSON.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from toolkit.adapters.base import InputSpec
from toolkit.adapters.inputs import example_inputs
from toolkit.core.errors import DtkError
from toolkit.core.files import read_json, write_json
from toolkit.models.build import model_class
from toolkit.models.folder import ModelFolder
from toolkit.runners.base import open_runner, runner_reads

CALLS = 3
STATUS = Path("/proc/self/status")


@dataclass(frozen=True)
class MemoryJob:
    """What to open and call: ``source`` is the folder or file of the runner, ``component`` a folder's denoiser."""

    runner: str
    source: str
    component: str | None
    device: str
    options: dict[str, str]
    specs: dict[str, InputSpec]
    batch: int


def measure_memory(
    runner: str,
    sources: Mapping[str, ModelFolder | Path],
    specs: dict[str, InputSpec],
    batch: int,
    *,
    device: str = "cpu",
    options: dict[str, str] | None = None,
) -> dict[str, Any]:
    """Peak memory of opening ``runner`` on each of the named ``sources`` and calling it at ``batch``, in MiB.

    ``peak_rss_mib`` is the high-water mark of the whole process, ``imports_rss_mib`` what it held before the model was
    opened; on a GPU, ``peak_device_mib`` and in ``peak_device_by`` whose figure it is. Raises DtkError if a process
    fails.
    """
    jobs = {name: asdict(_job(runner, source, specs, batch, device, options or {})) for name, source in sources.items()}
    with tempfile.TemporaryDirectory(prefix="dtk-memory-") as folder:
        question, answer = Path(folder) / "jobs.json", Path(folder) / "result.json"
        write_json(question, jobs)
        command = [sys.executable, "-m", "profiles.memory", str(question), str(answer)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise DtkError(
                f"Measuring the memory of the runner {runner} failed at batch {batch}.",
                found=done.stderr.strip().splitlines()[-1] if done.stderr.strip() else f"exit code {done.returncode}",
                do="leave out this batch size if memory ran out",
            )
        result: dict[str, Any] = read_json(answer)
    return result


def _job(
    runner: str,
    source: ModelFolder | Path,
    specs: dict[str, InputSpec],
    batch: int,
    device: str,
    options: dict[str, str],
) -> MemoryJob:
    root, component = (source.root, source.component) if isinstance(source, ModelFolder) else (source, None)
    return MemoryJob(runner, str(root), component, device, options, specs, batch)


def work(question: Path, answer: Path) -> None:
    """Measure every job in a process of its own, forked where no GPU forbids it: imports are then paid for once."""
    figures = {}
    for name, job in read_json(question).items():
        if job["component"] is not None:
            model_class(ModelFolder(Path(job["source"]), job["component"]).class_name)  # imports diffusers
        context: Any = get_context("fork" if job["device"] == "cpu" else "spawn")
        process = context.Process(target=measure, args=(job, answer))
        process.start()
        process.join()
        if process.exitcode:
            sys.exit(f"exit code {process.exitcode}" if process.exitcode < 0 else 1)
        figures[name] = read_json(answer)
    write_json(answer, figures)


def measure(job: Mapping[str, Any], answer: Path) -> None:
    """The measuring process: open the runner, call it, write down the peak."""
    specs = {name: InputSpec(tuple(spec["shape"]), spec["dtype"], spec["upper"]) for name, spec in job["specs"].items()}
    source = Path(job["source"])
    folder = source if job["component"] is None else ModelFolder(source, job["component"])
    inputs = example_inputs(specs, job["batch"], device=job["device"])
    imports_mib, free_bytes = _status_mib("VmRSS"), _free_bytes(job["device"])
    runner = open_runner(job["runner"], folder, device=job["device"], **job["options"])
    for _ in range(CALLS):
        runner(**inputs)
    figures = {"batch": job["batch"], "imports_rss_mib": imports_mib, "peak_rss_mib": _peak_rss_mib()}
    if job["device"].startswith("cuda"):
        peak_bytes, by = _device_peak(runner, runner_reads(job["runner"]), job["device"], free_bytes)
        figures |= {"peak_device_mib": peak_bytes / 2**20, "peak_device_by": by}
    write_json(answer, figures)


def _device_peak(runner: Any, reads: str, device: str, free_bytes: int) -> tuple[int, str]:
    """The most GPU memory that the runner held, and who says so."""
    import torch

    by_torch = torch.cuda.max_memory_allocated(device)
    if reads == "model":
        return by_torch, "torch's allocator"
    if reads == "engine":
        return by_torch + runner.device_bytes, "torch's allocator and TensorRT's own figures"
    return max(by_torch, free_bytes - _free_bytes(device)), "the free memory before and after"


def _free_bytes(device: str) -> int:
    """Free memory of a GPU; 0 on a CPU. The inputs lie there by then, and with them the process's context."""
    if not device.startswith("cuda"):
        return 0
    import torch

    return int(torch.cuda.mem_get_info(device)[0])


def _peak_rss_mib() -> float:
    """High-water mark of this process. Not getrusage if /proc is: that one counts the parent's before exec."""
    measured = _status_mib("VmHWM")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10 if measured is None else measured


def _status_mib(field: str) -> float | None:
    if not STATUS.exists():
        return None
    lines = dict(line.split(":", 1) for line in STATUS.read_text().splitlines() if ":" in line)
    return int(lines[field].split()[0]) / 2**10 if field in lines else None


if __name__ == "__main__":
    work(Path(sys.argv[1]), Path(sys.argv[2]))
