#!/bin/sh
# Packs what tests/gpu/run.py needs on a machine that has a GPU, python3 with PyTorch, and nothing else: stripped binaries without MPI, the
# checks and their peers, configurations, and the part of diffusers that the peers' networks are built from.
#
# Usage: tests/gpu/pack.sh [FOLDER]   (target/gpu-pack; after `make peers`)
set -eu
cd "$(dirname "$0")/../.."
target=${CARGO_TARGET_DIR:-target}
pack=${1:-target/gpu-pack}
limit_mib=60

cargo build --release --locked --no-default-features --package worker --package orchestrator --bins --example step_speed --example device
rm -rf "$pack"
mkdir -p "$pack/release/examples" "$pack/python" "$pack/tests"
for binary in worker orchestrator examples/step_speed examples/device; do
    strip -o "$pack/release/$binary" "$target/release/$binary"
done

cp -r configs "$pack/configs"
cp -r tests/peers tests/gpu "$pack/tests/"
rm -rf "$pack/tests/gpu/results"
packages=$(.venv/bin/python -c 'import diffusers, os; print(os.path.dirname(os.path.dirname(diffusers.__file__)))')
cp -r "$packages/diffusers" "$pack/python/diffusers"
# Pipelines are imported when asked for, and nobody asks: they are half of the package.
rm -rf "$pack/python/diffusers/pipelines" "$pack/python/diffusers/modular_pipelines"
find "$pack" -name __pycache__ -prune -exec rm -rf {} +

size=$(du -sm "$pack" | cut -f1)
[ "$size" -le "$limit_mib" ] || { echo "$pack has $size MiB, more than $limit_mib" >&2; exit 1; }
echo "$pack: $size MiB. On the machine with the GPU: python3 $(basename "$pack")/tests/gpu/run.py --to results"
echo "$target/release/worker is without MPI now; cargo build --release brings it back"
