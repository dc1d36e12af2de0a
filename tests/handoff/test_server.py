"""The real tritonserver on a handed-off run."""

from __future__ import annotations

import contextlib
import io
import json
import socket
import urllib.error
import urllib.request
from collections.abc import Sequence

import numpy as np
import pytest
from PIL import Image
from tritonclient.utils import InferenceServerException

from tests.handoff.asking import LEVEL, PROTOCOLS, ask, client, reference, tensor
from tests.handoff.conftest import SETTINGS
from toolkit.handoff.server import ADMIN_HEADER, Server
from toolkit.pipeline.handoff import DEFAULT_STEPS

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(("seeds", "steps"), [([0], 20), ([7, 3, 2**64 - 1], 5), ([1, 1, 2], [1, 20, 7])])
def test_an_image_is_what_dtk_samples_for_its_seed(
    server: Server, protocol: str, seeds: list[int], steps: int | list[int]
) -> None:
    images = ask(client(server, protocol), seeds, steps, protocol)["IMAGE"]
    expected = [reference(seed, count) for seed, count in zip(seeds, _each(steps, seeds), strict=True)]
    assert np.abs(images - np.stack(expected)).max() <= LEVEL


def _each(steps: int | list[int], seeds: Sequence[int]) -> list[int]:
    return [steps] * len(seeds) if isinstance(steps, int) else steps


def test_steps_left_out_are_the_default(server: Server) -> None:
    image = ask(client(server), [5])["IMAGE"][0]
    assert np.abs(image - reference(5, DEFAULT_STEPS)).max() <= LEVEL


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_png_is_the_image(server: Server, protocol: str) -> None:
    answer = ask(client(server, protocol), [3, 4], 4, protocol, outputs=("IMAGE", "PNG"))
    for image, (png,) in zip(answer["IMAGE"], answer["PNG"], strict=True):
        pixels = np.asarray(Image.open(io.BytesIO(png)))
        assert np.abs(pixels / 255 - image[0]).max() <= LEVEL / 2 + 1e-6


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_metadata_readiness_and_statistics(server: Server, protocol: str) -> None:
    connection = client(server, protocol)
    options = {"as_json": True} if protocol == "grpc" else {}
    assert connection.is_server_ready() and connection.is_model_ready("sampler", "1")
    metadata = connection.get_model_metadata("sampler", **options)
    assert [tensor["name"] for tensor in metadata["inputs"]] == ["SEED", "STEPS"]
    assert [int(size) for size in metadata["outputs"][0]["shape"]] == [-1, 1, 16, 16]
    ask(connection, [1], 1, protocol)
    statistics = connection.get_inference_statistics("sampler", **options)["model_stats"][0]
    assert int(statistics["inference_stats"]["success"]["count"]) >= 1


def test_metrics_count_the_requests(server: Server) -> None:
    ask(client(server), [1], 1)
    text = urllib.request.urlopen(f"http://{server.metrics}", timeout=5).read().decode()
    (line,) = [line for line in text.splitlines() if line.startswith('nv_inference_request_success{model="sampler"')]
    assert float(line.split()[-1]) >= 1


SEED = np.zeros((1, 1), np.uint64)
REFUSALS = {
    "no seed": ({"STEPS": (np.ones((1, 1), np.int32), "INT32")}, "expected .* inputs|missing|SEED"),
    "zero steps": ({"SEED": (SEED, "UINT64"), "STEPS": (np.zeros((1, 1), np.int32), "INT32")}, "STEPS is 0"),
    "negative steps": ({"SEED": (SEED, "UINT64"), "STEPS": (np.full((1, 1), -5, np.int32), "INT32")}, "STEPS is -5"),
    "huge steps": ({"SEED": (SEED, "UINT64"), "STEPS": (np.full((1, 1), 2**31 - 1, np.int32), "INT32")}, "1 to 40"),
    "wrong shape": ({"SEED": (np.zeros((1, 3), np.uint64), "UINT64")}, "shape"),
    "wrong type": ({"SEED": (np.zeros((1, 1), np.float32), "FP32")}, "data-?type|UINT64"),
    "NaN steps": (
        {"SEED": (SEED, "UINT64"), "STEPS": (np.full((1, 1), np.nan, np.float32), "FP32")},
        "data-?type|INT32",
    ),
    "huge n": ({"SEED": (np.zeros((10_000, 1), np.uint64), "UINT64")}, "batch"),
    "unequal rows": ({"SEED": (SEED, "UINT64"), "STEPS": (np.ones((2, 1), np.int32), "INT32")}, "batch|shape"),
    "100 MB": ({"SEED": (np.zeros((13_000_000, 1), np.uint64), "UINT64")}, "batch|size|large|limit"),
}


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("fault", REFUSALS)
def test_a_bad_request_is_refused_in_words_and_the_server_lives(server: Server, protocol: str, fault: str) -> None:
    arrays, words = REFUSALS[fault]
    connection = client(server, protocol)
    inputs = [tensor(name, values, dtype, protocol) for name, (values, dtype) in arrays.items()]
    with pytest.raises(InferenceServerException, match=words) as raised:
        connection.infer("sampler", inputs)
    assert any(code in str(raised.value.status()) for code in ("400", "INVALID_ARGUMENT", "RESOURCE_EXHAUSTED"))
    assert np.abs(ask(client(server, protocol), [0], 2, protocol)["IMAGE"][0] - reference(0, 2)).max() <= LEVEL


BODIES = {
    "not UTF-8": b"\xff\xfe",
    "half a JSON": b"{",
    "a NaN": b'{"inputs": [{"name": "SEED", "shape": [1, 1], "datatype": "UINT64", "data": [NaN]}]}',
    "a negative seed": b'{"inputs": [{"name": "SEED", "shape": [1, 1], "datatype": "UINT64", "data": [-1]}]}',
    "no shape": b'{"inputs": [{"name": "SEED"}]}',
    "no request": b"[1]",
}


@pytest.mark.parametrize("fault", BODIES)
def test_a_body_that_is_no_request_is_refused(server: Server, fault: str) -> None:
    request = urllib.request.Request(f"http://{server.http}/v2/models/sampler/infer", data=BODIES[fault])
    with pytest.raises(urllib.error.HTTPError) as raised:
        urllib.request.urlopen(request, timeout=10)
    assert json.loads(raised.value.read())["error"]
    assert raised.value.code in {400, 500}  # Triton 2.51 itself calls JSON that it cannot read an internal error
    assert client(server).is_server_ready()


def test_a_client_that_disconnects_harms_nobody(server: Server) -> None:
    body = json.dumps({"inputs": [{"name": "SEED", "shape": [8, 1], "datatype": "UINT64", "data": list(range(8))}]})
    host, port = server.http.split(":")
    for _ in range(5):
        with socket.create_connection((host, int(port))) as connection:
            head = f"POST /v2/models/sampler/infer HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len(body)}\r\n\r\n"
            connection.sendall((head + body).encode())
    assert np.abs(ask(client(server), [9], 3)["IMAGE"][0] - reference(9, 3)).max() <= LEVEL


def test_clients_that_send_half_a_request_and_stay_keep_nobody_waiting(server: Server) -> None:
    host, port = server.http.split(":")
    head = f"POST /v2/models/sampler/infer HTTP/1.1\r\nHost: {host}\r\nContent-Length: 1000\r\n\r\n{{"
    with contextlib.ExitStack() as silent:
        for _ in range(100):
            silent.enter_context(socket.create_connection((host, int(port)))).sendall(head.encode())
        assert np.abs(ask(client(server), [9], 3)["IMAGE"][0] - reference(9, 3)).max() <= LEVEL


def test_the_server_listens_on_loopback_only(server: Server) -> None:
    addresses = {address[4][0] for address in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)}
    for address in addresses - {"127.0.0.1", "127.0.1.1"}:
        with pytest.raises(OSError), socket.create_connection((address, int(server.http.split(":")[1])), timeout=1):
            pass


def test_models_cannot_be_loaded_without_the_key(server: Server) -> None:
    with pytest.raises(InferenceServerException):
        client(server).load_model("sampler")
    with pytest.raises(InferenceServerException):
        client(server, "grpc").load_model("sampler")
    client(server).load_model("sampler", headers={ADMIN_HEADER: server.admin_key})
    client(server, "grpc").load_model("sampler", headers={f"triton-grpc-protocol-{ADMIN_HEADER}": server.admin_key})
    assert np.abs(ask(client(server), [0], 2)["IMAGE"][0] - reference(0, 2)).max() <= LEVEL


def test_limits_of_the_settings_reach_the_server(server: Server) -> None:
    config = client(server).get_model_config("sampler")
    queue = config["dynamic_batching"]["default_queue_policy"]
    assert config["max_batch_size"] == SETTINGS.max_batch
    assert queue["max_queue_size"] == SETTINGS.max_queue_size
    assert queue["default_timeout_microseconds"] == SETTINGS.queue_timeout_ms * 1000
