"""Shell recipes and one-off tools, run from the root: `bash scripts/X.sh`, `python -m scripts.X`."""
