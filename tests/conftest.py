"""Settings every test shares."""

import torch

from exporters import settings

torch.set_num_threads(1)  # steadier, and the models of the tests are too small to gain from more
settings.AUTO_OPSETS = (21,)  # nothing to choose from: measuring would export every model three times
