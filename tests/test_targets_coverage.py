"""Coverage: what was placed, joined with the kernels that ran."""

import tempfile
from pathlib import Path

import onnx
import pytest
from calibration_nets import calibrated, resnet

from calibration.kernels import weighted_ops
from calibration.placement import place
from targets import plugins
from targets.backends import _tensorrt
from targets.base import Kernel, precisions
from targets.coverage import Op, cover

OPS = (Op("c1", "Conv", ("c1.y", "c1.relu")), Op("c2", "Conv", ("c2.y",)), Op("fc", "Gemm", ("y",)))


def test_reasons_come_from_the_placement_first_and_then_from_what_ran() -> None:
    kernels = (Kernel("conv", "i8", ("c1.relu",)), Kernel("conv", "f32", ("c2",)), Kernel("gemm", "f32", ("y",)))
    found = cover(OPS, {"fc": "its weight is 8 × 4"}, kernels)
    assert (found.int8, found.ops, found.ran) == ({"Conv": 1}, {"Conv": 2, "Gemm": 1}, True)
    assert found.floats == {
        "c2": "the runtime runs it in f32, although it has its pairs",
        "fc": "its weight is 8 × 4",
    }
    assert found.line() == (
        "1 of 2 Conv, 0 of 1 Gemm in int8; not: c2, because the runtime runs it in f32, although it has its pairs;"
        " fc, because its weight is 8 × 4"
    )


def test_ops_with_one_reason_are_told_together() -> None:
    found = cover(OPS, dict.fromkeys(("c1", "c2", "fc"), "left in float by request"), None)
    assert found.line(2).endswith("not: c1, c2 and 1 more, because left in float by request")


def test_what_the_runtime_runs_in_int8_counts_even_if_it_was_left_alone() -> None:
    assert cover(OPS[2:], {"fc": "left in float by request"}, (Kernel("gemm", "i8", ("fc",)),)).floats == {}


def test_an_op_without_a_kernel_is_not_counted_as_int8() -> None:
    found = cover(OPS[:1], {}, ())
    assert found.int8 == {}
    assert "names no kernel of it" in found.floats["c1"]


def test_a_name_that_two_kernels_share_is_in_float_if_one_of_them_is() -> None:
    both = [Kernel("conv", "i8", ("c1",)), Kernel("conv", "f32", ("c1",))]
    for kernels in (both, both[::-1]):
        assert list(cover(OPS[:1], {}, kernels).floats) == ["c1"]


def test_where_nothing_ran_the_placement_is_taken_at_its_word() -> None:
    found = cover(OPS, {"fc": "small"}, None)
    assert found.line() == "2 of 2 Conv, 0 of 1 Gemm in int8 as placed (nothing ran here); not: fc, because small"
    assert cover((), {}, None).line() == "no op that int8 kernels exist for"


@pytest.mark.parametrize("options", [{}, {"platform": "amd64"}], ids=["arm", "amd64"])
@pytest.mark.parametrize("exclude", [(), ("Conv_b1",), ("Conv_short", "Gemm_y"), "all"])
@pytest.mark.parametrize("name", ["cpu", "mobile"])
def test_what_was_left_in_float_is_found_on_the_real_runtimes(name, exclude, options, tmp_path) -> None:
    if options and name == "cpu":
        pytest.skip("the cpu has no platforms")
    target, made = plugins.make(name, options), resnet()
    names = [op.name for op in weighted_ops(made, target.scheme.weighted)]
    exclude = names if exclude == "all" else exclude
    placed = place(made, calibrated(made), target.scheme, exclude=exclude)
    onnx.save(placed.model, tmp_path / "model.onnx")
    with tempfile.TemporaryDirectory() as folder:
        target.build(tmp_path / "model.onnx", Path(folder))
        with target.open(Path(folder)) as run:
            kernels = run.kernels()
            assert run.precision() == precisions(kernels)
    ops = [Op(op.name, op.kind, op.writes) for op in weighted_ops(made, target.scheme.weighted)]
    found = cover(ops, placed.skipped, kernels)
    assert sum(found.ops.values()) == 7
    assert set(exclude) <= set(found.floats)
    # onnxruntime's kernels write int8 or nothing: one whose output is read in float too is in float with it
    beyond = set(found.floats) - set(exclude)
    assert name == "mobile" or not beyond
    assert all("although it has its pairs" in found.floats[op] for op in beyond)


def test_tensorrts_layers_go_by_their_metadata_or_their_names() -> None:
    information = {
        "Layers": [
            {
                "Name": "__myl_ConvAct_myl0_2",
                "LayerType": "conv",
                "Inputs": [{"Format/Datatype": "Int8"}],
                "Metadata": "[ONNX Layer: stem]\u001e[ONNX Layer: relu]",
            },
            {"Name": "fc + bias", "LayerType": "gemm", "Inputs": [{"Datatype": "FP32"}]},
        ]
    }
    assert _tensorrt.kernels(information) == (
        Kernel("conv", "i8", ("stem", "relu")),
        Kernel("gemm", "f32", ("fc", "bias")),
    )
