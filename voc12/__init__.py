"""PASCAL VOC 2012: names and prompts. Knows nothing of torch."""
