"""Settings every test shares."""

import os
import tempfile
from functools import cache

import torch
from typer import testing

from exporters import settings

torch.set_num_threads(1)  # steadier, and the models of the tests are too small to gain from more
testing._get_command = cache(testing._get_command)  # made anew for every call it takes 0.1 s
settings.AUTO_OPSETS = (21,)  # nothing to choose from: measuring would export every model three times
if "PYTEST_XDIST_WORKER" not in os.environ:  # its workers, and the processes that tests start, inherit it
    # What earlier versions of dtk left in the user's cache is no answer.
    CACHE = tempfile.TemporaryDirectory(prefix="dtk-tests-cache-")
    os.environ["DTK_CACHE"] = CACHE.name
