"""The settings of `dtk export`."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from toolkit.core.errors import UsageError
from toolkit.core.settings import Settings

DtypeName = Literal["fp32", "fp16", "bf16"]
OLDEST_OPSET, NEWEST_OPSET = 18, 23
AUTO_OPSETS: tuple[int, ...] = (21, 18, 23)  # what "auto" chooses from, an earlier one unless another is clearly faster
BF16_OPSET = 22  # the first in which Conv takes bfloat16


class BatchRange(Settings):
    """The batch sizes a file serves: smallest, the one to optimise for, largest."""

    min: int = Field(default=1, ge=1)
    opt: int = 8
    max: int = 64

    @model_validator(mode="after")
    def _in_order(self) -> BatchRange:
        if not self.min <= self.opt <= self.max:
            raise UsageError(f"The batch range {self} is not in order.", expected="min:opt:max, such as 1:8:64")
        return self

    def __str__(self) -> str:
        return f"{self.min}:{self.opt}:{self.max}"


def _parse_batch(value: object) -> object:
    if isinstance(value, int):
        raise UsageError(
            f"Cannot read the batch range {value}.",
            expected='min:opt:max; YAML reads 1:4:8 as a time of day, so put it in quotes: "1:4:8"',
        )
    if not isinstance(value, str):
        return value
    if not re.fullmatch(r"\d+:\d+:\d+", value):
        raise UsageError(f"Cannot read the batch range {value!r}.", expected="min:opt:max, such as 1:8:64")
    smallest, best, largest = map(int, value.split(":"))
    return BatchRange(min=smallest, opt=best, max=largest)


class EngineSettings(Settings):
    """How TensorRT builds: for which GPUs, how hard, in what space, and where its engines may run.

    ``compute_capability`` is of TensorRT for RTX only (none: all it knows), the compatibilities are of TensorRT only.
    """

    compute_capability: tuple[str, ...] = ()
    level: int = Field(default=3, ge=0, le=5)
    workspace_mib: int | None = Field(default=None, ge=1)
    build_budget_s: float | None = Field(
        default=None, gt=0, description="a build that takes longer is begun again at a lower level"
    )
    tf32: bool = Field(default=False, description="float32 products with 10 bits of mantissa: faster, less exact")
    one_per_shape: bool = Field(default=False, description="also an engine for each single batch size of min:opt:max")
    hardware_compatible: Literal["none", "capability", "ampere"] = Field(
        default="none", description="also for other GPUs: of the same compute capability, or all from Ampere on"
    )
    version_compatible: bool = Field(default=False, description="also for later versions of the same TensorRT")
    weights: Literal["fixed", "refit", "stripped"] = Field(
        default="fixed",
        description="refit: may be exchanged in the built engine; stripped: left out, and read from the ONNX file",
    )


class ExportSettings(Settings):
    """The settings of the export stage.

    ``loop_steps`` DDIM steps (the model's own if it was taught some) of ``loop_images`` images are compared besides
    single predictions.
    """

    dtype: DtypeName = "fp32"
    keep_fp32: tuple[str, ...] = Field(
        default=(), description="layers that stay in float32 in a half-precision file: shell wildcards over their names"
    )
    opset: int | Literal["auto"] = Field(
        default="auto", description="auto: the fastest of 18, 21 and 23 in the runners at hand, measured once"
    )
    batch: Annotated[BatchRange, BeforeValidator(_parse_batch)] = BatchRange()
    tokens: int | None = Field(default=None, ge=1, description="length of a context; none: the model's own")
    dynamic_size: bool = Field(default=False, description="height and width of the denoiser's file dynamic, too")
    components: bool = Field(default=True, description="also autoencoder, text encoder, class embedding")
    also: tuple[str, ...] = Field(default=(), description="further exporters by name: `dtk list exporters`")
    layout: Literal["dtk", "optimum"] = Field(default="dtk", description="optimum: also what its pipelines open")
    trt: bool = False
    engine: EngineSettings = EngineSettings()
    sampler: Literal["ddim", "ddpm"] = Field(default="ddim", description="whose update the step graph holds")
    longest: int = Field(default=100, ge=1, description="the most steps the step graph has coefficients for")
    loop_steps: int = Field(default=20, ge=1)
    loop_images: int = Field(default=4, ge=1)
    parity_gmacs: float = Field(
        default=4000.0,
        gt=0,
        description="work of one comparison with torch: of a large model fewer images are compared",
    )
    seed: int = 0

    @model_validator(mode="after")
    def _supported(self) -> ExportSettings:
        check_opset(self.known_opset, self.dtype)
        if self.dynamic_size and self.trt:
            raise UsageError(
                "An engine is built for one height and width.",
                found="dynamic_size and trt",
                do="leave out --dynamic-size, or --trt",
            )
        return self

    @property
    def known_opset(self) -> int:
        """The opset that was named; for auto, the first that it would choose from."""
        return auto_opsets(self.dtype)[0] if self.opset == "auto" else self.opset


def requested_exporters(settings: ExportSettings) -> list[str]:
    """The names of what is written beyond the ONNX files."""
    named = {"optimum": settings.layout == "optimum", "tensorrt": settings.trt}
    return list(dict.fromkeys([*(name for name, wanted in named.items() if wanted), *settings.also]))


def auto_opsets(dtype: DtypeName) -> list[int]:
    """What "auto" chooses from for a precision."""
    return [opset for opset in AUTO_OPSETS if dtype != "bf16" or opset >= BF16_OPSET] or [NEWEST_OPSET]


def check_opset(opset: int, dtype: DtypeName) -> None:
    """Refuse an ONNX opset that the exporter does not write or that cannot hold ``dtype``."""
    if not OLDEST_OPSET <= opset <= NEWEST_OPSET:
        raise UsageError(f"Cannot export to opset {opset}.", expected=f"{OLDEST_OPSET} to {NEWEST_OPSET}")
    if dtype == "bf16" and opset < BF16_OPSET:
        raise UsageError(
            f"ONNX opset {opset} has no bfloat16 convolution.",
            expected=f"opset {BF16_OPSET} or later for bf16",
            do=f"add --opset {NEWEST_OPSET}, or export fp16",
        )
