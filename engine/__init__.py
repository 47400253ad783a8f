"""How the work is shared out: processes of one machine, Ray. Sits above pipeline, below the root scripts."""
