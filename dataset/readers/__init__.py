"""Forms of label files, one a file: `recognises(source)` and `read(source)`, listed in dataset/labels.py."""
