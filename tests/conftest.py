"""Settings every test shares, also those in processes that it forks."""

import gc
import os
import tempfile
from functools import cache

import pytest
import torch
from typer import testing

from exporters import settings
from profiles import latency, memory
from tests import forked, traces

gc.set_threshold(200_000, 20, 100)  # a trace leaves so much that looking for garbage took a twentieth of all time
torch.set_num_threads(1)  # steadier, and the models of the tests are too small to gain from more
testing._get_command = cache(testing._get_command)  # made anew for every call it takes 0.1 s
latency.BLOCK_MS = 1.0  # of calls in a row: no test asserts a figure of time
settings.AUTO_OPSETS = (21,)  # nothing to choose from: measuring would export every model three times
os.environ["TORCHINDUCTOR_DEBUG_COMPILE"] = "1"  # what torch.compile writes is compiled, and not optimised for a minute
os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"  # without a pool of interpreters that import torch
os.environ["TORCHINDUCTOR_VEC_ISA_OK"] = "0"  # nor one to try each width of vectors
if traces.PLACE not in os.environ:  # xdist's workers, and the processes that tests start, inherit it
    # What earlier versions of dtk left in the user's cache is no answer.
    CACHE = tempfile.TemporaryDirectory(prefix="dtk-tests-cache-")
    os.environ["DTK_CACHE"] = CACHE.name
    TRACES = tempfile.TemporaryDirectory(prefix="dtk-tests-traces-")
    os.environ[traces.PLACE] = TRACES.name
traces.share()
vars(memory)["subprocess"] = forked.Interpreters  # an interpreter that imports diffusers takes nine seconds


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests come first: of several processes none is left alone with one at the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)
