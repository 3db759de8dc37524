#!/usr/bin/env bash
# Measures everything that a GPU does for this package, in at most eight minutes, into OUT/gpu.json and OUT/gpu.md.
#     benchmarks/gpu.sh OUT [--device cuda] [--steps decode_7b,train] [--limit 480] [--tiny]
# Needs Python with torch, transformers, opencv, pillow, psutil, rich and typer; no ROS, no network, nothing built. --tiny with
# --device cpu tries the script itself with tiny shapes. PYTHON names another interpreter.
set -euo pipefail
[ $# -ge 1 ] || { sed -n '2,5s/^# \{0,1\}//p' "$0"; exit 2; }
top="$(cd "$(dirname "$0")/.." && pwd)"
python="${PYTHON:-python3}"
"$python" -c "import pydantic" 2>/dev/null || PYTHONPATH="$top/benchmarks/gpu/bare${PYTHONPATH:+:$PYTHONPATH}" # builds, checks nothing
export PYTHONPATH="$top:$top/benchmarks/gpu:$top/test${PYTHONPATH:+:$PYTHONPATH}" HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
exec "$python" "$top/benchmarks/gpu/run.py" "$@"
