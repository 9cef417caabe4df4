"""LLaDA, the masked diffusion transformer, in plain NumPy: forward pass, sampler and likelihood bound.

Read ``config`` and ``names`` (what a checkpoint says), ``ops`` (the arithmetic), ``transformer`` (the one forward pass), then
``sampling`` and ``likelihood`` (what is done with it).
"""

from model.checkpoint import build, embedded, embedded_directory, load
from model.config import Config
from model.layers import AttentionProduct, DenseAttentionProduct, DenseLinear, Linear
from model.likelihood import nll_bound
from model.sampling import Step, denoise, generate
from model.taps import Keep, Observer
from model.tokenizer import Tokenizer, chat_prompt
from model.transformer import AttentionContext, Transformer

__all__ = [
    "AttentionContext",
    "AttentionProduct",
    "Config",
    "DenseAttentionProduct",
    "DenseLinear",
    "Keep",
    "Linear",
    "Observer",
    "Step",
    "Tokenizer",
    "Transformer",
    "build",
    "chat_prompt",
    "denoise",
    "embedded",
    "embedded_directory",
    "generate",
    "load",
    "nll_bound",
]
