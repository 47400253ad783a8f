#!/usr/bin/env bash
# Checks every computing part on the GPU against the CPU, measures both, and prints a table; below 8 minutes on one GPU.
#   bash benchmarks/gpu.sh [--json FILE]             exit code 1 when anything is out of tolerance, 2 without a GPU
#   bash benchmarks/gpu.sh --device cpu --quick      tries the script itself out, where there is no GPU
# PYTHON=python3 takes an interpreter that has all of requirements.txt, and makes no .venv.
set -euo pipefail
cd "$(dirname "$0")/.."
if [ -z "${PYTHON:-}" ]; then
    . scripts/setup.sh
    set_up requirements.txt
    PYTHON=.venv/bin/python
fi
exec "$PYTHON" -m benchmarks.gpu "$@"
