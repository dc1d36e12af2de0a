"""Triton's Python backend model: requests in, sampled images out."""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils
from dtk_server import manifest, png
from dtk_server.engine import OnnxRuntimeEngine
from dtk_server.loop import Loop
from dtk_server.noise import sample_noise
from dtk_server.refusal import RefusedError, UnfitError
from dtk_server.request import Limits, Wish, wishes
from dtk_server.schedule import Schedule


class TritonPythonModel:
    """Holds the engine and the loop; Triton calls it with as many requests at once as its batcher collected."""

    def initialize(self, args: dict[str, Any]) -> None:
        """Check files, versions and one known image before the model counts as ready."""
        config = json.loads(args["model_config"])
        folder = Path(args["model_repository"])
        try:
            _check_numpy()
            self._manifest = manifest.read(folder, args["model_version"])
            self._limits = Limits(**self._manifest["limits"])
            self._loop = _loop(folder / args["model_version"], self._manifest, config, args)
            expected = self._manifest["expected"]
            known = Wish(expected["seed"], expected["steps"], _first_class(self._limits))
            manifest.check_image(png.to_uint8(self._loop.sample([known])[0]), folder, self._manifest)
        except UnfitError as error:
            raise pb_utils.TritonModelException(str(error)) from error
        pb_utils.Logger.log_info(f"{args['model_name']}: files, versions and the known image are as handed off")

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer every request; a refused one does not touch the others."""
        asked = [self._read(request) for request in requests]
        images = iter(self._sample([wish for found in asked if isinstance(found, list) for wish in found]))
        return [
            _answer(request, [next(images) for _ in found]) if isinstance(found, list) else _refusal(found)
            for request, found in zip(requests, asked)  # noqa: B905 (equal by construction)
        ]

    def _read(self, request: Any) -> list[Wish] | RefusedError:
        tensors = {name: pb_utils.get_input_tensor_by_name(request, name) for name in ("SEED", "STEPS", "CLASS")}
        try:
            return wishes({name: tensor and tensor.as_numpy() for name, tensor in tensors.items()}, self._limits)
        except RefusedError as refused:
            return refused

    def _sample(self, asked: list[Wish]) -> list[np.ndarray]:
        size = self._limits.max_batch
        batches = [asked[start : start + size] for start in range(0, len(asked), size)]
        return [image for batch in batches for image in self._loop.sample(batch)]


def _loop(version: Path, stored: dict[str, Any], config: dict[str, Any], args: dict[str, Any]) -> Loop:
    shape = tuple(stored["image"])
    engine = OnnxRuntimeEngine(
        manifest.inside(version, PurePosixPath(stored["engine"]["file"])),
        device="cuda" if args["model_instance_kind"] == "GPU" else "cpu",
        device_id=int(args["model_instance_device_id"]),
        threads=int(config["parameters"]["threads"]["string_value"]),
        image=shape,
        batch=stored["limits"]["max_batch"],
    )
    return Loop(engine, Schedule.read(version / "schedule.json"), shape, sample_noise)


def _first_class(limits: Limits) -> dict[str, np.ndarray]:
    return {} if limits.classes is None else {"class_labels": np.array(0, np.int64)}


def _check_numpy() -> None:
    """Older Python backends were built for numpy 1 and hand on empty tensors under numpy 2, without an error."""
    probe = np.arange(3, dtype=np.float32)
    if pb_utils.Tensor("probe", probe).as_numpy().tobytes() != probe.tobytes():
        raise UnfitError(f"This Triton's Python backend does not work with numpy {np.__version__}; install numpy<2.")


def _answer(request: Any, images: list[np.ndarray]) -> Any:
    wanted = request.requested_output_names()
    outputs = []
    if "IMAGE" in wanted:
        outputs.append(pb_utils.Tensor("IMAGE", np.stack(images)))
    if "PNG" in wanted:
        outputs.append(pb_utils.Tensor("PNG", np.array([[png.encode(image)] for image in images], dtype=object)))
    return pb_utils.InferenceResponse(outputs)


def _refusal(refused: RefusedError) -> Any:
    error = pb_utils.TritonError(str(refused), pb_utils.TritonError.INVALID_ARG)
    return pb_utils.InferenceResponse(error=error)
