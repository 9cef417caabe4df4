"""Kernels: how a product of quantized operands is computed from their codes."""
