"""What a rotation of the residual stream has to know of a network, as plain data: who reads, who writes, and what stands between."""

from __future__ import annotations

from dataclasses import dataclass

from refquant.errors import UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class NormSite:
    """A norm that the stream goes through.

    Parameters
    ----------
    name : str
    rms : bool
        Whether it divides by the root mean square and subtracts nothing: only that commutes with rotations.
    gain, bias : bool
        Whether it multiplies by a gain and adds a bias.
    """

    name: str
    rms: bool
    gain: bool
    bias: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockSite:
    """One block.

    Parameters
    ----------
    attn_norm, ff_norm : NormSite
    qkv : tuple of str
        Query, key and value projections, or one that makes all three, in this order.
    attn_out : str
    ff_readers : tuple of str
        All linears that read the second norm's output: gates, ups, routers.
    ff_writers : tuple of (str, int)
        All linears that write what the MLP adds to the stream, with the number of features that they read.
    """

    attn_norm: NormSite
    qkv: tuple[str, ...]
    attn_out: str
    ff_norm: NormSite
    ff_readers: tuple[str, ...]
    ff_writers: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """A whole network.

    Parameters
    ----------
    width, heads, kv_heads, head_dim : int
    embedding, head : str
        The head a linear of its own: a tied one cannot be rotated.
    final_norm : NormSite
    blocks : tuple of BlockSite
    clips_values : bool
        Whether values are clipped feature by feature, which no rotation commutes with.
    """

    width: int
    heads: int
    kv_heads: int
    head_dim: int
    embedding: str
    head: str
    final_norm: NormSite
    blocks: tuple[BlockSite, ...]
    clips_values: bool = False

    @property
    def norms(self) -> tuple[NormSite, ...]:
        """All norms that the stream goes through."""
        return (*(norm for block in self.blocks for norm in (block.attn_norm, block.ff_norm)), self.final_norm)


def require_rotatable_stream(network: Network, method: str) -> None:
    """Raise UsageError if a norm does more than divide by the root mean square and multiply by a gain."""
    for norm in network.norms:
        if not norm.rms:
            raise UsageError(
                f"{method}: {norm.name} subtracts the mean, which a rotation of the stream does not commute with; "
                "only models with RMS norms are rotated"
            )
        if norm.bias:
            raise UsageError(f"{method}: {norm.name} adds a bias, which does not fold into the weights that follow")
