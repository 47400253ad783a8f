"""The version of the code, recorded in every file that a stage writes."""

VERSION = "0.3.0"  # as in pyproject.toml; raise it when the same settings no longer give the same files
