"""One step a file, in order: cam, affinity, crf, masks, scores; files between them.

Tensors and arrays in, tensors and arrays out. A step never imports another step. Shape letters, here and everywhere:
B batch, K classes of the data set, k classes in the image, b background prompts, H W pixels, h w patches, N = h*w,
D width, E embedding, L blocks.
"""
