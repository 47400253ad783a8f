"""The embedded data set: drawn scenes with exact masks and the small CLIP that was trained on them."""
