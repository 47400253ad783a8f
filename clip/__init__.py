"""Frozen CLIP: weights, text, image preparation, one explicit vision forward. Knows nothing of data sets or stages."""
