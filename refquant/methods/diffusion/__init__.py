"""Methods made for masked diffusion language models."""
