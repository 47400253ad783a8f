"""How SegCLIP is pretrained on images with captions."""
