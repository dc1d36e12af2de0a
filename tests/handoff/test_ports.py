"""The ports a server listens on."""

from __future__ import annotations

import socket

import pytest

from toolkit.core.errors import DtkError
from toolkit.handoff.server import ports_of
from toolkit.handoff.settings import ServeSettings


def test_every_protocol_gets_a_port_of_its_own() -> None:
    for _ in range(2000):
        assert len(set(ports_of(ServeSettings(http_port=0, grpc_port=0, metrics_port=0)))) == 3


def test_a_port_that_is_named_is_taken_unless_another_has_it() -> None:
    """Else whoever has it would answer in the server's place, and be taken for it."""
    named = ports_of(ServeSettings(http_port=0, grpc_port=0, metrics_port=0))
    settings = ServeSettings(http_port=named[0], grpc_port=named[1], metrics_port=named[2])
    assert ports_of(settings) == named
    with socket.create_server((settings.host, named[1])), pytest.raises(DtkError, match=rf"serve on .*:{named[1]}"):
        ports_of(settings)
    assert ports_of(settings) == named
