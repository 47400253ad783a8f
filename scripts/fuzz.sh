#!/usr/bin/env bash
# The fuzz tests with many random examples instead of the fixed few of scripts/test.sh; a failure prints how to repeat it.
#   bash scripts/fuzz.sh [EXAMPLES=20000]              a test; some hours for all of them
#   bash scripts/fuzz.sh 5000 -k weights               further arguments go to pytest
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/setup.sh
set_up requirements-dev.txt
examples=20000
if [ $# -gt 0 ]; then
    examples=$1
    shift
fi
if ! [[ $examples =~ ^[1-9][0-9]*$ ]]; then
    echo "error: EXAMPLES $examples: expected a number of examples a test, such as 20000" >&2
    exit 2
fi
FUZZ_EXAMPLES=$examples exec .venv/bin/python -m pytest tests/fuzz "$@"
