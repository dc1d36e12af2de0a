"""The paper's CIFAR-10 table, with latency: ``python -m benchmarks.cifar10 --help``."""
