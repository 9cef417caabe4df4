"""Methods that move difficulty between activations and weights by a factor a channel."""
