"""The ports a server listens on."""

from __future__ import annotations

from toolkit.handoff.server import ports_of
from toolkit.handoff.settings import ServeSettings


def test_every_protocol_gets_a_port_of_its_own() -> None:
    for _ in range(2000):
        assert len(set(ports_of(ServeSettings(http_port=0, grpc_port=0, metrics_port=0)))) == 3


def test_a_port_that_was_asked_for_is_taken() -> None:
    assert ports_of(ServeSettings(http_port=1, grpc_port=2, metrics_port=3)) == [1, 2, 3]
