"""MaskCLIP's Python interface, as the pip package of that name has it, on this project's own modules.

import maskclip
model, preprocess = maskclip.load("ViT-B/16")
model.initialize_text_embeddings(maskclip.generate_text_embeddings(["a dog", "a cat"], model=model))
logits = model(preprocess(image)[None])  # (1, 2, h, w)
"""

from maskclip.api import available_datasets, available_models, generate_text_embeddings, load, tokenize
from maskclip.model import MaskClip

__all__ = ["MaskClip", "available_datasets", "available_models", "generate_text_embeddings", "load", "tokenize"]
