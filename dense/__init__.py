"""Data sets that score no background: names, prompts, and their annotation files as masks. Knows nothing of torch.

A module for each, with its SPEC and the form RAW of its annotation files. A mask's value is the index of the class;
255 is for pixels that are not scored.
"""
