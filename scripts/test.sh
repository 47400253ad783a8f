#!/usr/bin/env bash
# The whole test suite, with linters, after the same set-up as the demo.
#   bash scripts/test.sh                   everything, as CI does
#   bash scripts/test.sh --setup-only      stop after the set-up
#   bash scripts/test.sh -m 'not slow'     further arguments go to pytest (then without the linters)
#   bash scripts/test.sh -m long           only the tests of a minute and more: the soak, faults, whole benchmarks
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/setup.sh
set_up requirements-dev.txt
[ "${1:-}" = --setup-only ] && exit 0
if [ $# -eq 0 ]; then
    .venv/bin/ruff check .
    .venv/bin/ruff format --check .
    .venv/bin/mypy
fi
unset PYTHONDONTWRITEBYTECODE # the tests start many processes: what these import is compiled once
exec .venv/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder "$@" # -n 0: one process, to debug in
