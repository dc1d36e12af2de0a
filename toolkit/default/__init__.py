"""The embedded default: a small real DDPM and the images it is judged by, so that a demo needs no network.

``fashion-ddpm-16`` is a diffusers pipeline folder (UNet2DModel, 1.1 M parameters, 16x16 grey). ``fashion-mnist`` holds
the 10,000 test images of Fashion-MNIST (MIT), which the model was not trained on.
"""

from pathlib import Path

MODEL = Path(__file__).parent / "fashion-ddpm-16"
IMAGES = Path(__file__).parent / "fashion-mnist" / "t10k-images-idx3-ubyte.gz"
