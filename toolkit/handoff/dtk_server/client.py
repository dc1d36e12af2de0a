"""Ask a server for images: writes PNGs and prints the latency. Needs `pip install "tritonclient[http]"`."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import tritonclient.http as triton


def main() -> None:
    """Send one request and store what comes back."""
    options = arguments()
    client = triton.InferenceServerClient(options.url)
    seeds = np.array(options.seeds, np.uint64)[:, None]
    inputs = [tensor("SEED", seeds, "UINT64")]
    if options.steps:
        inputs.append(tensor("STEPS", np.full(seeds.shape, options.steps, np.int32), "INT32"))
    if options.label is not None:
        inputs.append(tensor("CLASS", np.full(seeds.shape, options.label, np.int64), "INT64"))
    if options.prompt is not None:
        prompts = np.full(seeds.shape, options.prompt.encode(), dtype=object)
        inputs.append(tensor("PROMPT", prompts, "BYTES"))
    if options.guidance is not None:
        inputs.append(tensor("GUIDANCE", np.full(seeds.shape, options.guidance, np.float32), "FP32"))
    started = time.perf_counter()
    result = client.infer(options.model, inputs, outputs=[triton.InferRequestedOutput("PNG")])
    latency_ms = 1000 * (time.perf_counter() - started)
    for seed, png in zip(options.seeds, result.as_numpy("PNG")[:, 0], strict=True):
        path = options.output / f"seed-{seed}.png"
        path.write_bytes(png)
        print(path)
    print(f"{len(seeds)} images in {latency_ms:.1f} ms")


def tensor(name: str, values: np.ndarray, dtype: str) -> triton.InferInput:
    """An input of a request."""
    made = triton.InferInput(name, list(values.shape), dtype)
    made.set_data_from_numpy(values)
    return made


def arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", default="127.0.0.1:8000")
    parser.add_argument("--model", default="sampler")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--steps", type=int)
    parser.add_argument("--label", type=int, help="the class, if the model has classes")
    parser.add_argument("--prompt", help="the text, if the model takes one")
    parser.add_argument("--guidance", type=float, help="1 is none; if the model has a null condition")
    parser.add_argument("--output", type=Path, default=Path())
    return parser.parse_args()


if __name__ == "__main__":
    main()
