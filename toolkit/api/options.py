"""The keywords of the functions as types; what is left out takes the recipe's default. See docs/python.md."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, TypedDict


class PruneOptions(TypedDict, total=False):
    """How a model is pruned; ``toolkit.pruning.settings.PruneSettings`` says what each does."""

    target: str
    criterion: str
    threshold: float | Literal["auto"]
    align: int
    groups: Literal["within", "whole"]
    min_width: float
    blocks: bool
    preset: str
    tokens: int
    calibration_images: int
    calibration_batch_size: int
    score_timesteps: int
    noise_draws: int
    score_precision: Literal["fp32", "bf16"]
    gradient_checkpointing: bool
    norm_term: bool
    reconstruct: bool
    seed: int
    runner: str
    batch: int
    build_budget_s: float


class RecoverOptions(TypedDict, total=False):
    """How the pruned model is trained; ``toolkit.recovery.settings.RecoverSettings`` says what each does."""

    steps: int
    batch_size: int
    micro_batch_size: int
    losses: dict[str, float]
    min_snr_gamma: float
    learning_rate: float
    schedule: Literal["cosine", "constant"]
    warmup_steps: int
    weight_decay: float
    gradient_clip: float
    ema: float
    flip: bool
    condition_dropout: float
    mixed_precision: Literal["no", "fp16", "bf16"]
    compile: bool
    channels_last: bool
    checkpoint_every: int
    keep_checkpoints: int
    log_every: int
    track: str
    seed: int
    sampling_steps: int
    teaching: str
    teaching_steps: int
    teaching_rate: float
    teacher_steps: int
    teaching_guidance: float
    trajectories: int
    prediction_type: Literal["epsilon", "v_prediction", "sample"]


class CompressOptions(PruneOptions, RecoverOptions, total=False):
    """Those of pruning and of recovery; ``seed`` is that of both and of the data's split.

    ``rounds``: how many times both are done, or the targets of the rounds before the last, such as ["macs<=0.6"].

    ``decoder``: what an AutoencoderKL's decoder is pruned to, such as "macs=0.5"; it is trained for ``decoder_steps``.
    """

    rounds: int | list[str]
    decoder: str
    decoder_steps: int


class EvaluateOptions(TypedDict, total=False):
    """How images are sampled and judged; see ``toolkit.evaluation.settings.EvaluateSettings``."""

    images: int
    sampler: str
    sampling_steps: int
    batch_size: int
    guidance: float
    features: str
    seed: int
    controls: bool


class VerifyOptions(TypedDict, total=False):
    """What is tested and how strictly; see ``toolkit.evaluation.settings.VerifySettings``."""

    margin: float | str
    artefact: str
    images: int
    power: float


class EngineOptions(TypedDict, total=False):
    """How TensorRT builds; see ``exporters.settings.EngineSettings``."""

    compute_capability: tuple[str, ...]
    level: int
    workspace_mib: int
    build_budget_s: float
    tf32: bool
    one_per_shape: bool
    hardware_compatible: Literal["none", "capability", "ampere"]
    version_compatible: bool
    weights: Literal["fixed", "refit", "stripped"]


class ExportOptions(TypedDict, total=False):
    """What is exported; see ``exporters.settings.ExportSettings``."""

    dtype: Literal["fp32", "fp16", "bf16"]
    keep_fp32: tuple[str, ...]
    opset: int | Literal["auto"]
    batch: str
    tokens: int
    dynamic_size: bool
    components: bool
    also: tuple[str, ...]
    layout: Literal["dtk", "optimum"]
    trt: bool
    engine: EngineOptions
    sampler: Literal["ddim", "ddpm"]
    longest: int
    loop_steps: int
    loop_images: int
    parity_gmacs: float
    seed: int


class RoundOptions(TypedDict, total=False):
    """How long is measured; see ``profiles.settings.Rounds``."""

    seconds: float
    least: int
    most: int


class ProfileOptions(TypedDict, total=False):
    """What is measured; see ``profiles.settings.ProfileSettings``."""

    runners: tuple[str, ...]
    baseline: str
    batches: tuple[int, ...]
    device: str
    dtype: Literal["fp32", "tf32", "fp16", "bf16"]
    rounds: RoundOptions
    loop_steps: int
    parts: bool
    guidance: float
    tokens: int


class HandoffOptions(TypedDict, total=False):
    """What a server gets; see ``toolkit.handoff.settings.HandoffSettings``."""

    to: Literal["triton"]
    name: str
    device: Literal["cpu", "gpu"]
    runtime: Literal["onnxruntime", "openvino", "openvino:bf16", "tensorrt"]
    engines: tuple[str, ...]
    fallback: Literal["refuse", "onnxruntime"]
    instances: int
    threads: int
    max_batch: int
    max_steps: int
    default_steps: int
    any_steps: bool
    max_guidance: float
    default_guidance: float
    max_prompt_bytes: int
    max_pixels: int
    max_queue_size: int
    queue_timeout_ms: int
    queue_delay_ms: float
    dynamic_batching: bool
    tolerance: int
    container: str


class ServeOptions(TypedDict, total=False):
    """Where a server listens; see ``toolkit.handoff.settings.ServeSettings``."""

    host: str
    http_port: int
    grpc_port: int
    metrics_port: int
    environment: Path
    ready_timeout_s: float
    drain_s: float
