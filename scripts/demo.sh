#!/usr/bin/env bash
# The main job on the embedded default: toy-world images -> CAMs -> masks -> scores and a preview in output/toyworld.
# Needs Python 3.10 to 3.13. Run it again and it re-uses what is there.
set -euo pipefail
if [ $# -gt 0 ]; then # it takes no arguments: --help, or a mistake
    sed -n '2,3s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi
cd "$(dirname "$0")/.."
. scripts/setup.sh
set_up requirements.txt
exec .venv/bin/python -u -m scripts.demo
