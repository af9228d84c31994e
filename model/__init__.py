"""The engine: checkpoint in, tokens out. Knows nothing of LSP, training or evaluation."""
