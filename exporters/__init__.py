"""Exporters: the denoiser, and one sampling step of it, as ONNX and as TensorRT engines."""
