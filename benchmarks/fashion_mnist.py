"""Make the training images of the embedded default: ``python benchmarks/fashion_mnist.py TRAIN.idx.gz OUT.npz``.

Fashion-MNIST's 60,000 training images (``train-images-idx3-ubyte.gz``; Debian: package dataset-fashion-mnist, under
/usr/share/datasets/fashion-mnist), padded with black to 32x32 and mean-pooled to 16x16. Then
``dtk run benchmarks/recipes/fashion-ddpm-16.yaml -o runs/fashion --set data.source=OUT.npz`` trains the model.
"""

from __future__ import annotations

import gzip
import sys
from pathlib import Path

import numpy as np


def main(source: str, target: str) -> None:
    stored = np.frombuffer(gzip.decompress(Path(source).read_bytes()), np.uint8, offset=16).reshape(-1, 28, 28)
    padded = np.pad(stored, ((0, 0), (2, 2), (2, 2)))
    pooled = padded.reshape(-1, 16, 2, 16, 2).mean(axis=(2, 4)).round().astype(np.uint8)
    np.savez_compressed(target, images=pooled)


if __name__ == "__main__":
    main(*sys.argv[1:])
