"""The network that is trained on the masks: SegFormer or DeepLab. Sits above pipeline, below scripts."""
