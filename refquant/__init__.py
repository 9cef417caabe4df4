"""The arithmetic of quantizing language models, written down in plain NumPy."""
