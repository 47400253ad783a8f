"""One loop for all that learns; what is learned is an argument."""
