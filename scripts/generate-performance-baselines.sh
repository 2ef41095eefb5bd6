#!/usr/bin/env bash
# See --help; the work is done in scripts/perf/baselines.py.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
PYTHONPATH="$root/scripts" exec python3 -m perf.baselines "$@"
