"""Triton's Python backend model: requests in, sampled images out."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from subprocess import DEVNULL
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils
from dtk_server import manifest
from dtk_server.refusal import RefusedError, UnfitError

WATCH = """
look() { read -r _ _ _ parent _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ started _ < "/proc/$1/stat"; }
look "$1" && first=$started
while look "$1" && [ "$started" = "$first" ]; do
    [ "$parent" = "$2" ] || kill -9 "$1"
    sleep 1
done
"""
"""In /proc/PID/stat the parent is the 4th field and the start the 22nd: a number given anew is another process."""
INPUTS = ("SEED", "STEPS", "GUIDANCE", "CLASS", "PROMPT")


class TritonPythonModel:
    """Holds the stepper and the loop; Triton calls it with as many requests at once as its batcher collected."""

    def initialize(self, args: dict[str, Any]) -> None:
        """Check files, versions and one known image before the model counts as ready."""
        _end_with(os.getppid())
        try:
            _check_numpy()
            folder = Path(args["model_repository"])
            stored = manifest.read(folder, args["model_version"])
            self._service = _service(folder / args["model_version"], stored, args)
            expected = stored["expected"]
            image = self._service.known_image(expected["seed"], expected["steps"])
            manifest.check_image(image, folder, stored)
        except UnfitError as error:
            raise pb_utils.TritonModelException(str(error)) from error
        pb_utils.Logger.log_info(f"{args['model_name']}: files, versions and the known image are as handed off")

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer every request; a refused one does not touch the others."""
        wishes = [self._read(request) for request in requests]
        images = iter(self._service.sample([wish for asked in wishes if isinstance(asked, list) for wish in asked]))
        return [
            _answer(request, [next(images) for _ in asked]) if isinstance(asked, list) else _refusal(asked)
            for request, asked in zip(requests, wishes, strict=True)
        ]

    def _read(self, request: Any) -> Any:
        tensors = {name: pb_utils.get_input_tensor_by_name(request, name) for name in INPUTS}
        try:
            return self._service.read({name: tensor and tensor.as_numpy() for name, tensor in tensors.items()})
        except RefusedError as refused:
            return refused


def _end_with(server: int) -> None:
    """Have this process ended when its parent ``server`` is gone, by a shell of its own.

    A server that is killed amid a request leaves a lock, for which this process waits for ever while it holds Python's:
    none of its own threads would come to look.
    """
    command = ["sh", "-c", WATCH, "watch", str(os.getpid()), str(server)]
    subprocess.Popen(command, stdin=DEVNULL, stdout=DEVNULL, stderr=DEVNULL, start_new_session=True)


def _service(version: Path, stored: dict[str, Any], args: dict[str, Any]) -> Any:
    """The service of a version; its code is imported only now that its hashes are known to be right."""
    from dtk_server.noise import sample_noise
    from dtk_server.serving import Service

    config = json.loads(args["model_config"])
    return Service(
        version,
        stored,
        sample_noise,
        device="cuda" if args["model_instance_kind"] == "GPU" else "cpu",
        device_id=int(args["model_instance_device_id"]),
        threads=int(config["parameters"]["threads"]["string_value"]),
        warn=lambda message: pb_utils.Logger.log_error(f"{args['model_name']}: {message}"),
    )


def _check_numpy() -> None:
    """Older Python backends were built for numpy 1 and hand on empty tensors under numpy 2, without an error."""
    probe = np.arange(3, dtype=np.float32)
    copy = pb_utils.Tensor.from_dlpack("probe", pb_utils.Tensor("probe", probe).to_dlpack()).as_numpy()
    if copy.tobytes() != probe.tobytes():
        raise UnfitError(f"This Triton's Python backend does not work with numpy {np.__version__}; install numpy<2.")


def _answer(request: Any, images: list[np.ndarray]) -> Any:
    from dtk_server.png import encode

    wanted = request.requested_output_names()
    outputs = []
    if "IMAGE" in wanted:
        outputs.append(pb_utils.Tensor("IMAGE", np.stack(images)))
    if "PNG" in wanted:
        outputs.append(pb_utils.Tensor("PNG", np.array([[encode(image)] for image in images], dtype=object)))
    return pb_utils.InferenceResponse(outputs)


def _refusal(refused: RefusedError) -> Any:
    error = pb_utils.TritonError(str(refused), pb_utils.TritonError.INVALID_ARG)
    return pb_utils.InferenceResponse(error=error)
