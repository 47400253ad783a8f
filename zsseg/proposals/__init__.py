"""Where regions come from: one way a file, and the table of them."""
