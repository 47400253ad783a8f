"""How the toy world's CLIP is trained, from images and captions alone.

The one part of toyworld that imports torch.
"""
