"""Settings every test shares."""

import torch

torch.set_num_threads(1)  # steadier, and the models of the tests are too small to gain from more
