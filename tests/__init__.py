"""The tests mirror the modules; each compares with an independent truth, never with the code's own output."""
