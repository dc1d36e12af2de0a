"""Latent and conditioned models behind a server: the images are dtk's own, with neither torch nor diffusers."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

from tests.handoff.asking import LEVEL, client, tensor
from tests.handoff.latent_run import MAX_STEPS, expected, latent_run
from toolkit.core.errors import UsageError
from toolkit.core.noise import sample_noise
from toolkit.core.run_folder import RunFolder
from toolkit.handoff.dtk_server.refusal import RefusedError
from toolkit.handoff.dtk_server.request import Limits, wishes
from toolkit.handoff.dtk_server.serving import Service
from toolkit.handoff.repository import REPOSITORY
from toolkit.handoff.server import running
from toolkit.handoff.settings import HandoffSettings, ServeSettings
from toolkit.models.folder import ModelFolder
from toolkit.pipeline.handoff import check_guidance, handoff

SETTINGS = HandoffSettings(max_steps=MAX_STEPS, default_steps=2, max_batch=4, default_guidance=2.0, max_guidance=5.0)
GUIDED = {
    "caption": [("a cat", 1.0), ("a cat", 3.5), ("", 0.0)],
    "class": [(2, 1.0), (2, 3.5), (0, 0.0)],
}
GUIDED["sdxl"] = GUIDED["caption"]
CONDITION_INPUT = {"caption": "PROMPT", "class": "CLASS", "sdxl": "PROMPT"}


def column(kind: str, conditions: list[object]) -> np.ndarray:
    if kind != "class":
        return np.array([[str(condition).encode()] for condition in conditions], dtype=object)
    return np.array(conditions, np.int64)[:, None]


@pytest.fixture(scope="module", params=["caption", "class", "sdxl"])
def handed(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, RunFolder, ModelFolder]:
    run, model = latent_run(tmp_path_factory.mktemp(request.param), request.param)
    handoff(run, SETTINGS)
    return request.param, run, model


def version(run: RunFolder) -> Path:
    return run.path / "handoff" / REPOSITORY / SETTINGS.name / "1"


@pytest.mark.slow
def test_every_image_is_dtks_own_at_its_condition_and_guidance(handed: tuple[str, RunFolder, ModelFolder]) -> None:
    kind, run, model = handed
    stored = json.loads((version(run) / "handoff.json").read_text())
    service = Service(version(run), stored, sample_noise, device="cpu", device_id=0, threads=1)
    conditions, scales = ([pair[n] for pair in GUIDED[kind]] for n in (0, 1))
    asked = service.read(
        {
            "SEED": np.array([[7], [7], [9]], np.uint64),
            "STEPS": np.array([[4], [4], [3]], np.int32),
            "GUIDANCE": np.array(scales, np.float32)[:, None],
            CONDITION_INPUT[kind]: column(kind, conditions),
        }
    )
    images = service.sample(asked)
    for image, wish, condition, scale in zip(images, asked, conditions, scales, strict=True):
        assert np.abs(image - expected(model, wish.seed, wish.steps, condition, scale)).max() < LEVEL
    assert np.abs(images[0] - images[1]).max() > LEVEL, "guidance changes the image"


@pytest.mark.slow
def test_the_manifest_and_the_configuration_say_what_a_request_may_name(
    handed: tuple[str, RunFolder, ModelFolder],
) -> None:
    kind, run, _ = handed
    stored = json.loads((run.path / "handoff" / "handoff.json").read_text())
    assert [entry["name"] for entry in stored["inputs"]] == ["SEED", "STEPS", "GUIDANCE", CONDITION_INPUT[kind]]
    assert stored["image"] == [3, 16, 16] and stored["latent"] == [4 if kind != "class" else 3, 8, 8]
    assert stored["limits"]["max_guidance"] == 5.0 and stored["limits"]["classes"] == (None, 3)[kind == "class"]
    assert ("tokenizers" in stored["requires"]) == (kind != "class")
    dockerfile = (run.path / "handoff" / "Dockerfile").read_text()
    assert ("tokenizers==" in dockerfile) == (kind != "class") and "onnxruntime==" in dockerfile


@pytest.mark.slow
def test_the_server_side_needs_neither_torch_nor_diffusers(handed: tuple[str, RunFolder, ModelFolder]) -> None:
    _, run, _ = handed
    program = (
        "import json, sys; sys.path.insert(0, sys.argv[1]);"
        "from pathlib import Path; from dtk_server.noise import sample_noise; from dtk_server.serving import Service;"
        "stored = json.loads(Path(sys.argv[1], 'handoff.json').read_text());"
        "s = Service(Path(sys.argv[1]), stored, sample_noise, device='cpu', device_id=0, threads=1);"
        "s.known_image(0, 2);"
        "assert not {'torch', 'diffusers', 'transformers', 'toolkit'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-I", "-c", program, str(version(run))], check=True)


@pytest.mark.slow
def test_a_real_server_serves_it(
    handed: tuple[str, RunFolder, ModelFolder], serve_settings: ServeSettings, tmp_path: Path
) -> None:
    kind, run, model = handed
    condition, scale = GUIDED[kind][1]
    with running(run.path / "handoff" / REPOSITORY, serve_settings, tmp_path / "log") as server:
        connection = client(server)

        def ask(prompt: np.ndarray, guidance: float) -> np.ndarray:
            name, dtype = CONDITION_INPUT[kind], "BYTES" if kind != "class" else "INT64"
            inputs = [
                tensor("SEED", np.array([[7]], np.uint64), "UINT64"),
                tensor("STEPS", np.array([[4]], np.int32), "INT32"),
                tensor("GUIDANCE", np.array([[guidance]], np.float32), "FP32"),
                tensor(name, prompt, dtype),
            ]
            result = connection.infer(SETTINGS.name, inputs, outputs=[triton.InferRequestedOutput("IMAGE")])
            return np.asarray(result.as_numpy("IMAGE")[0])

        got = ask(column(kind, [condition]), scale)
        assert np.abs(got - expected(model, 7, 4, condition, scale)).max() < LEVEL
        with pytest.raises(InferenceServerException, match="GUIDANCE is 5.5; expected 0 to 5"):
            ask(column(kind, [condition]), 5.5)
        with pytest.raises(InferenceServerException, match="GUIDANCE is nan; expected 0 to 5"):
            ask(column(kind, [condition]), float("nan"))
        if kind != "class":
            with pytest.raises(InferenceServerException, match="PROMPT is not valid UTF-8: .* at byte 1"):
                ask(np.array([[b"a\xff"]], dtype=object), 1.0)
        assert np.array_equal(ask(column(kind, [condition]), scale), got), "the server lives"


TEXT = Limits(max_batch=4, max_steps=9, default_steps=3, prompt_bytes=5, max_guidance=4.0, default_guidance=1.5)
SEED = np.array([[1]], np.uint64)


@pytest.mark.parametrize(
    ("arrays", "limits", "words"),
    [
        ({"SEED": SEED}, TEXT, "PROMPT is missing"),
        ({"SEED": SEED, "PROMPT": np.array([[b"123456"]], object)}, TEXT, "PROMPT has 6 bytes; the limit is 5"),
        ({"SEED": SEED, "PROMPT": np.array([[b"\xff"]], object)}, TEXT, "PROMPT is not valid UTF-8"),
        ({"SEED": SEED, "PROMPT": np.array([[1]])}, TEXT, "expected text"),
        ({"SEED": SEED, "PROMPT": np.array([[b""], [b""]], object)}, TEXT, r"PROMPT has shape \[2, 1\]"),
        ({"SEED": SEED, "GUIDANCE": np.array([[-1.0]])}, TEXT, "GUIDANCE is -1.0; expected 0 to 4"),
        ({"SEED": SEED, "GUIDANCE": np.array([[np.inf]])}, TEXT, "GUIDANCE is inf; expected 0 to 4"),
        ({"SEED": SEED, "GUIDANCE": np.array([[1]])}, TEXT, "expected floats"),
        ({"SEED": SEED, "GUIDANCE": np.array([[1.0]])}, Limits(4, 9, 3), "GUIDANCE is not taken"),
    ],
)
def test_refusals_say_why(arrays: dict[str, np.ndarray], limits: Limits, words: str) -> None:
    with pytest.raises(RefusedError, match=words):
        wishes(arrays, limits)


def test_guidance_left_out_is_the_default() -> None:
    seen: list[object] = []

    def conditioned(*given: object) -> dict[str, np.ndarray]:
        seen.append(given)
        return {}

    wishes({"SEED": SEED, "PROMPT": np.array([["ü".encode()]], object)}, TEXT, conditioned)
    assert seen == [("ü", 1.5)]


def test_a_default_beyond_the_limit_is_refused() -> None:
    with pytest.raises(UsageError, match="limits of guidance contradict"):
        check_guidance(HandoffSettings(max_guidance=1.0, default_guidance=2.0))
