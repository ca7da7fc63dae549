#!/usr/bin/env bash
# Builds vramx on a machine with a card, runs the GPU tests and the benchmarks, and writes JSON.
# Usage: benchmarks/gpu_run.sh OUT [all|tests|bench|peers|pipelines|forecast|turns|libraries|services|soak]
#        benchmarks/gpu_run.sh OUT NAME [OPTIONS], to run one scenario: python -m benchmarks --help
#
# Each takes less than ten minutes, but peers some for each model. Needs python3 with torch (CUDA),
# nanobind, scikit-build-core, cmake, ninja and pytest, and nvcc for counting page faults. What is
# installed elsewhere may stand in PYTHONPATH, as the wheels of diffusers and accelerate, which are
# pure Python (0.42 was tried):
#   python3 -m pip install --no-deps --no-index --target /path/to/SITE WHEELS/*.whl
# Managed memory is held under 48 GiB, which the card must have free.
set -euo pipefail
out=$(mkdir -p "$1" && cd "$1" && pwd)
what=${2:-all}
cd "$(dirname "$0")/.."
export VRAMX_MANAGED_LIMIT=${VRAMX_MANAGED_LIMIT:-48GiB}
site=${VRAMX_SITE:-/tmp/vramx-site}
rm -rf "$site"
python3 -m pip install -q --no-build-isolation --no-deps --no-index --target "$site" .
export PYTHONPATH="$site${PYTHONPATH:+:$PYTHONPATH}"

# measure FILE NAME [OPTIONS]: one that fails leaves the others their turn.
failed=()
measure() {
  echo "== ${*:2}"
  python3 -m benchmarks "${@:2}" --json "$out/$1.json" || failed+=("${*:2}")
}

if [[ $what == all || $what == tests ]]; then
  python3 -m pytest tests/gpu -q -p no:cacheprovider -o addopts="" -o timeout=0 \
    --junitxml "$out/tests.xml" 2>&1 | tee "$out/tests.txt" || failed+=(tests)
fi
case $what in
  tests) ;;
  all | bench)
    measure cycle cycle --tokens 2048 7000 16384
    measure cycle-lru cycle --backend mapped --policy lru --ratios 2
    measure cycle-faults cycle --weights 4GiB --ratios 2 --count-faults
    for name in orders fits calls; do measure $name $name; done
    ;;
  peers)
    if (($# > 2)); then
      measure peers "${@:2}"
    else
      for tokens in 2048 7000 16384; do measure "peers-$tokens" peers --tokens "$tokens"; done
      for model in decode unet; do measure "peers-$model" peers --model "$model"; done
      # As large as Flux.
      measure peers-dit peers --model dit --weights 22GiB --ratios 2 --timeout 240
    fi
    ;;
  pipelines)
    measure photograph photograph
    measure photograph-1080 photograph --size 1920 1080 --budgets 6GiB 3GiB --no-usual
    measure clips clips
    measure frames frames --seconds 3
    # So large that it is computing that takes the time.
    measure frames-8GiB frames --weights 8GiB --batches 16
    ;;
  forecast) measure forecast forecast --tokens 2048 16384 --ratios 1.5 2 4 ;;
  turns)
    measure turns-unet turns --ratios 0.9 1.25 2 4 --peers prefix strided --rounds 10
    measure images-6GiB frames --program images --batches 1 --peers --budget 6GiB
    measure images-4GiB frames --program images --batches 1 --peers --budget 4GiB
    ;;
  libraries)
    for model in torchao bitsandbytes; do
      for tokens in 1 256; do
        measure "$model-$tokens" turns --model $model --weights 2GiB --tokens $tokens --ratios 2
      done
    done
    measure onnx onnx
    measure onnx-faces onnx --models 5 --width 1024 --side 128 --budget 360MiB --runs 200
    ;;
  services) # needs vramx[service,video,models,ray] beside what the others need
    measure service service
    measure cluster cluster
    ;;
  soak) measure soak frames --batches 16 --seconds 1 --peers --watch 2000 ;;
  *) measure "$what" "${@:2}" ;;
esac
if ((${#failed[@]})); then
  printf 'failed: %s\n' "${failed[@]}" >&2
  exit 1
fi
