"""GGUF: tensors in ggml's block types, and the file that holds them with their metadata. One module a block type."""

from refquant.layout.gguf.container import GgufFile, GgufWriter, read_gguf, write_gguf, writing_gguf
from refquant.layout.gguf.fields import BlockType, Fields
from refquant.layout.gguf.metadata import Value
from refquant.layout.gguf.tensor import GgufTensor, quantize
from refquant.layout.gguf.types import BLOCK_TYPES, find_block_type

__all__ = [
    "BLOCK_TYPES",
    "BlockType",
    "Fields",
    "GgufFile",
    "GgufTensor",
    "GgufWriter",
    "Value",
    "find_block_type",
    "quantize",
    "read_gguf",
    "write_gguf",
    "writing_gguf",
]
