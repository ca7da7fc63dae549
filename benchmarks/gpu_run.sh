#!/usr/bin/env bash
# Builds vramx on a machine with a card, runs the GPU tests and the benchmarks, and writes JSON.
# Usage: benchmarks/gpu_run.sh OUT [tests|bench|all]
#        benchmarks/gpu_run.sh OUT peers [OPTIONS]
#
# The second compares vramx with its peers: one run with the options of peers.py, or without any
# the runs of all models, each several minutes. Peers installed elsewhere may stand in PYTHONPATH.
#
# Needs python3 with torch (CUDA), nanobind, scikit-build-core, cmake, ninja and pytest, and nvcc for
# counting page faults. Managed memory is held under 48 GiB, which the card must have free.
set -euo pipefail
out=$(mkdir -p "$1" && cd "$1" && pwd)
what=${2:-all}
cd "$(dirname "$0")/.."
export VRAMX_MANAGED_LIMIT=${VRAMX_MANAGED_LIMIT:-48GiB}
site=${VRAMX_SITE:-/tmp/vramx-site}
rm -rf "$site"
python3 -m pip install -q --no-build-isolation --no-deps --no-index --target "$site" .
export PYTHONPATH="$site:$PWD/benchmarks${PYTHONPATH:+:$PYTHONPATH}"

if [[ $what == tests || $what == all ]]; then
  python3 -m pytest tests/gpu -q -p no:cacheprovider -o addopts="" -o timeout=0 \
    --junitxml "$out/tests.xml" 2>&1 | tee "$out/tests.txt" || true
fi
if [[ $what == bench || $what == all ]]; then
  cd benchmarks
  python3 cyclic.py --json "$out/cyclic.json"
  python3 cyclic.py --policy lru --ratios 2 --json "$out/lru.json"
  python3 cyclic.py --ratios 2 --count-faults --json "$out/faults.json"
  python3 fits.py --json "$out/fits.json"
  python3 -m pytest test_micro.py -q -p no:cacheprovider -o addopts="" --benchmark-only \
    --benchmark-json "$out/micro.json"
fi
if [[ $what == peers ]]; then
  cd benchmarks
  if (($# > 2)); then
    python3 peers.py --json "$out/peers.json" "${@:3}"
  else
    for tokens in 2048 7000 16384; do
      python3 peers.py --tokens "$tokens" --json "$out/peers-linear-$tokens.json"
    done
    for model in decode dit unet; do
      python3 peers.py --model "$model" --json "$out/peers-$model.json"
    done
  fi
fi
