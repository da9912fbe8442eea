"""The bundle that the target jetson writes where there is no board, and its build.sh with a stand-in for trtexec."""

import subprocess
from pathlib import Path

import pytest

from targets.backends.jetson import Jetson
from tests.trtexec_stand_in import model


def folder(path: Path) -> Path:
    path.mkdir()
    return path


def test_the_jetson_bundle_says_what_parsed_it(tmp_path: Path) -> None:
    onnx, out = model(tmp_path / "m.onnx", quantized=True), folder(tmp_path / "out")
    Jetson().build(onnx, out)
    assert (out / "model.onnx").read_bytes() == onnx.read_bytes()
    said = (out / "check.txt").read_text()
    assert said.startswith("parsed by" if Jetson().versions() else "unchecked")


TRTEXEC = """#!/bin/sh
if [ "$1" = --help ]; then
    echo '&&&& RUNNING TensorRT.trtexec [TensorRT v{version}] # trtexec --help'
    echo '  --noTF32  --skipInference --noCudaGraph'
    exit {code}
fi
echo "$*" >> calls
for option in "$@"; do
    case $option in --saveEngine=*) echo engine > "${{option#--saveEngine=}}" ;; esac
done
"""


@pytest.mark.parametrize(
    ("version", "build", "latency", "never"),
    [
        ("8602", "--int8", "--useCudaGraph --useSpinWait --loadEngine", "--stronglyTyped"),
        ("100300", "--stronglyTyped", "--useCudaGraph --useSpinWait --loadEngine", "--int8"),
        ("110401", "--noTF32", "--loadEngine", "--int8 --stronglyTyped --fp16 --useCudaGraph --useSpinWait"),
    ],
)
def test_build_sh_pins_what_each_trtexec_changed(
    version: str, build: str, latency: str, never: str, tmp_path: Path
) -> None:
    out = folder(tmp_path / "out with space")
    Jetson().build(model(tmp_path / "m.onnx", quantized=True), out)
    result = run_build_sh(out, TRTEXEC.format(version=version, code=0))
    assert result.returncode == 0, result.stderr
    calls = (out / "calls").read_text().splitlines()
    assert len(calls) == 3
    assert build in calls[0].split()
    assert "--onnx=model.onnx --saveEngine=model.engine" in calls[0]
    assert latency in calls[1]
    assert "--noDataTransfers" not in calls[2]
    assert not set(never.split()) & set(" ".join(calls).split())
    assert (out / "SHA256SUMS").is_file()


def test_build_sh_of_a_float_model_quantizes_nothing(tmp_path: Path) -> None:
    out = folder(tmp_path / "out")
    Jetson().build(model(tmp_path / "m.onnx"), out)
    assert run_build_sh(out, TRTEXEC.format(version="8602", code=0)).returncode == 0
    assert "--int8" not in (out / "calls").read_text()


def test_build_sh_of_a_dla_says_which(tmp_path: Path) -> None:
    out = folder(tmp_path / "out")
    Jetson(dla=1).build(model(tmp_path / "m.onnx", quantized=True), out)
    assert run_build_sh(out, TRTEXEC.format(version="100300", code=0)).returncode == 0
    assert "--useDLACore=1 --fp16 --allowGPUFallback --int8" in (out / "calls").read_text().splitlines()[0]


@pytest.mark.parametrize(
    ("trtexec", "says"),
    [
        (TRTEXEC.format(version="7103", code=0), "TensorRT 7 is not supported"),
        (TRTEXEC.format(version="120000", code=0), "TensorRT 12 is not supported"),
        ("#!/bin/sh\necho hello\n", "does not say its version"),
        (None, "no trtexec at"),
    ],
)
def test_build_sh_refuses_in_one_line(trtexec: str | None, says: str, tmp_path: Path) -> None:
    out = folder(tmp_path / "out")
    Jetson().build(model(tmp_path / "m.onnx", quantized=True), out)
    result = run_build_sh(out, trtexec)
    assert result.returncode == 2
    assert says in result.stderr
    assert len(result.stderr.splitlines()) == 1


def run_build_sh(out: Path, trtexec: str | None) -> "subprocess.CompletedProcess[str]":
    fake = out.parent / "trtexec"
    if trtexec is not None:
        fake.write_text(trtexec)
        fake.chmod(0o755)
    environment = {"PATH": "/usr/bin:/bin", "TRTEXEC": str(fake)}
    return subprocess.run(
        ["sh", str(out / "build.sh")],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=20,
    )
