"""Masked diffusion transformers in plain NumPy: LLaDA, Dream, LLaDA-MoE and LLaDA2; forward pass, samplers and likelihood bound.

Read ``config`` and ``names`` (what LLaDA's checkpoint says), ``families`` (what the others' say), ``architecture`` (what all that
comes to), ``ops`` (the arithmetic), ``transformer`` (the one forward pass), then ``sampling`` and ``likelihood`` (what is done with it).
"""

from model.architecture import Architecture, ModelConfig
from model.attention import AttentionContext
from model.checkpoint import build, embedded, embedded_directory, load
from model.commit import aligned
from model.config import Config
from model.layers import AttentionProduct, DenseAttentionProduct, DenseLinear, Linear, ScoreOperands
from model.likelihood import is_greedy, nll_bound
from model.sampling import Step, denoise, generate
from model.sampling_dream import denoise_dream, generate_dream
from model.sampling_llada2 import denoise_llada2, generate_llada2
from model.taps import Keep, Observer
from model.tokenizer import Tokenizer, chat_prompt
from model.transformer import Transformer
from model.visibility import block_causal

__all__ = [
    "Architecture",
    "AttentionContext",
    "AttentionProduct",
    "Config",
    "DenseAttentionProduct",
    "DenseLinear",
    "Keep",
    "Linear",
    "ModelConfig",
    "Observer",
    "Step",
    "ScoreOperands",
    "Tokenizer",
    "Transformer",
    "aligned",
    "block_causal",
    "build",
    "chat_prompt",
    "denoise",
    "denoise_dream",
    "denoise_llada2",
    "embedded",
    "embedded_directory",
    "generate",
    "generate_dream",
    "generate_llada2",
    "is_greedy",
    "load",
    "nll_bound",
]
