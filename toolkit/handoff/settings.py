"""The settings of `dtk handoff` and `dtk serve`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from toolkit.core.settings import Settings

CONTAINER = "nvcr.io/nvidia/tritonserver:26.09-py3"


class HandoffSettings(Settings):
    """The settings of the handoff stage: the server's limits, its batching, and where it shall run."""

    to: Literal["triton"] = "triton"
    name: str = Field(default="sampler", pattern=r"^[a-z][a-z0-9_]*$", description="the model's name on the server")
    device: Literal["cpu", "gpu"] = "cpu"
    runtime: Literal["onnxruntime", "openvino", "openvino:bf16", "tensorrt"] = Field(
        default="onnxruntime", description="openvino: on cpu, also in bfloat16; tensorrt: an engine, on gpu"
    )
    engines: tuple[Path, ...] = Field(
        default=(), description="more engines of this step graph, built on other machines"
    )
    fallback: Literal["refuse", "onnxruntime"] = Field(
        default="refuse", description="what happens if the runtime cannot load it: no server, or ONNX Runtime instead"
    )
    instances: int = Field(default=1, ge=1, description="copies of the model that work side by side on each device")
    threads: int = Field(default=1, ge=1, description="processor threads of one instance")
    max_batch: int = Field(default=8, ge=1, description="images of one request, and of one batch of several requests")
    max_steps: int = Field(default=100, ge=1)
    default_steps: int | None = Field(
        default=None, ge=1, description="steps if a request names none; none: those the model was taught, else 20"
    )
    any_steps: bool = Field(default=False, description="also serve numbers of steps that the model was not taught")
    max_guidance: float = Field(default=20.0, ge=0, description="classifier-free guidance a request may ask for")
    default_guidance: float = Field(default=1.0, ge=0, description="guidance if a request names none; 1 is none")
    max_prompt_bytes: int = Field(default=4096, ge=1)
    max_pixels: int = Field(default=2**26, ge=1, description="pixels of one batch: lowers max_batch for large images")
    max_queue_size: int = Field(default=128, ge=1, description="waiting requests; one more is refused")
    queue_timeout_ms: int = Field(default=60_000, ge=1, description="a request that waits longer is refused")
    queue_delay_ms: float = Field(default=2.0, ge=0, description="how long the batcher waits for company")
    dynamic_batching: bool = True
    tolerance: int | None = Field(
        default=None, ge=0, le=255, description="of the known image at load, in steps of 1/255; none: by the precision"
    )
    container: str = Field(default=CONTAINER, pattern=r"^[\w./:@-]+$", description="the image the Dockerfile builds on")


class ServeSettings(Settings):
    """Where the server listens and which server it is; a port 0 takes a free one."""

    host: str = Field(default="127.0.0.1", pattern=r"^[\w.:-]+$")
    http_port: int = Field(default=8000, ge=0, le=65535)
    grpc_port: int = Field(default=8001, ge=0, le=65535)
    metrics_port: int = Field(default=8002, ge=0, le=65535)
    environment: Path | None = Field(default=None, description="a virtual environment that holds nvidia-pytriton")
    ready_timeout_s: float = Field(default=600.0, gt=0, description="loading checks a known image and warms up")
    drain_s: int = Field(default=30, ge=0, description="how long requests under way may take after a stop")
