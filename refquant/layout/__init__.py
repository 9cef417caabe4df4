"""Other people's byte layouts: each a bijection between quantized tensors and the arrays of their files."""
