"""A simple baseline of zero-shot segmentation (Xu et al., ECCV 2022): regions, and CLIP on each of them."""
