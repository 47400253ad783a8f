"""COCO 2014: names and prompts, and its annotations as a split file and masks. Knows nothing of torch."""
