"""What a data set is, and how one in VOC layout is read. Knows nothing of torch."""
