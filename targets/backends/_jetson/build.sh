#!/bin/sh
# Build and time model.engine from model.onnx on this board, with TensorRT 8.6, 10 or 11.
# Every option whose default changed between those versions is set here, so that their numbers compare.
# TRTEXEC=/path/to/trtexec overrides where it is looked for.
set -eu
cd "$(dirname "$0")"

trtexec=${TRTEXEC:-}
if [ -z "$trtexec" ]; then
    trtexec=$(command -v trtexec || echo /usr/src/tensorrt/bin/trtexec)
fi
if [ ! -x "$trtexec" ]; then
    echo "build.sh: no trtexec at $trtexec: install JetPack's TensorRT, or set TRTEXEC=/path/to/trtexec" >&2
    exit 2
fi

# Its first line is "&&&& RUNNING TensorRT.trtexec [TensorRT v8602]", from 10.0 on "[TensorRT v100300]".
usage=$("$trtexec" --help 2>&1) || true
number=$(printf '%s\n' "$usage" | sed -n 's/.*\[TensorRT v\([0-9][0-9]*\)\].*/\1/p' | head -n 1)
if [ -z "$number" ]; then
    echo "build.sh: $trtexec does not say its version: is it NVIDIA's?" >&2
    exit 2
elif [ "$number" -ge 100000 ]; then
    major=$((number / 10000))
else
    major=$((number / 1000))
fi

knows() {
    printf '%s\n' "$usage" | grep -q -e "$1"
}

# Precision. The model says it: int8 where it has Q/DQ pairs, f32 elsewhere, with TF32 off.
set --
case $major in
    8) set -- --int8 ;;             # weak typing: without the flag, Q/DQ layers are refused
    10) set -- --stronglyTyped ;;   # --int8 would let the builder pick int8 by itself as well
    11) ;;                          # always strongly typed; --int8, --fp16 and --best were removed
    *)
        echo "build.sh: TensorRT $major is not supported: have 8.6, 10 and 11" >&2
        exit 2
        ;;
esac
for option in --noTF32 --skipInference; do
    if knows "$option"; then
        set -- "$@" "$option"
    fi
done
"$trtexec" "$@" --onnx=model.onnx --saveEngine=model.engine --timingCacheFile=timing.cache \
    --profilingVerbosity=detailed --exportLayerInfo=layers.json

# Latency. 11 made CUDA graphs, spin-wait and no transfers the default; 8.6 and 10 are asked for them.
set --
if [ "$major" -lt 11 ]; then
    set -- --useCudaGraph --useSpinWait --noDataTransfers
fi
# One inference at a time, 0.5 s of warm-up, and the raw times: quantiles are for whoever reads them.
"$trtexec" "$@" --loadEngine=model.engine --warmUp=500 --duration=10 --iterations=1000 --avgRuns=1 \
    --exportTimes=times.json

# Layer times come from a run of their own: profiling slows every layer, and CUDA graphs rule it out.
set --
if [ "$major" -ge 11 ] && knows --noCudaGraph; then
    set -- --noCudaGraph
fi
"$trtexec" "$@" --loadEngine=model.engine --warmUp=500 --duration=3 --exportProfile=profile.json \
    --profilingVerbosity=detailed

sha256sum model.onnx model.engine > SHA256SUMS
echo "build.sh: built model.engine with TensorRT $major; times.json, layers.json and profile.json are beside it"
