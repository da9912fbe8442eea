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

# Options are plain words, so that leaving them unquoted below splits them as is meant.
case $major in
    8)
        build="@BUILD_8@"
        calls="@CALLS_8@"
        calls_if_known="@CALLS_IF_KNOWN_8@"
        profile_if_known="@PROFILE_IF_KNOWN_8@"
        ;;
    10)
        build="@BUILD_10@"
        calls="@CALLS_10@"
        calls_if_known="@CALLS_IF_KNOWN_10@"
        profile_if_known="@PROFILE_IF_KNOWN_10@"
        ;;
    11)
        build="@BUILD_11@"
        calls="@CALLS_11@"
        calls_if_known="@CALLS_IF_KNOWN_11@"
        profile_if_known="@PROFILE_IF_KNOWN_11@"
        ;;
    *)
        echo "build.sh: TensorRT $major is not supported: have 8.6, 10 and 11" >&2
        exit 2
        ;;
esac

known() {
    for option in "$@"; do
        if printf '%s\n' "$usage" | grep -q -e "$option"; then
            printf ' %s' "$option"
        fi
    done
}

# Precision: the model says it, int8 where it has Q/DQ pairs, f32 elsewhere.
"$trtexec" $build $(known @BUILD_IF_KNOWN@) --onnx=model.onnx --saveEngine=model.engine \
    --timingCacheFile=timing.cache --profilingVerbosity=detailed --exportLayerInfo=layers.json

# Latency: one inference at a time, copies included, and the raw times: quantiles are for whoever reads them.
"$trtexec" $calls $(known $calls_if_known) --loadEngine=model.engine --warmUp=@WARMUP_MS@ --duration=10 \
    --iterations=1000 --avgRuns=1 --exportTimes=times.json

# Layer times come from a run of their own: profiling slows every layer, and CUDA graphs rule it out.
"$trtexec" $(known $profile_if_known) --loadEngine=model.engine --warmUp=@WARMUP_MS@ --duration=3 \
    --exportProfile=profile.json --profilingVerbosity=detailed

sha256sum model.onnx model.engine > SHA256SUMS
echo "build.sh: built model.engine with TensorRT $major; times.json, layers.json and profile.json are beside it"
