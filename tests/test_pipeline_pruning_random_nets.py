"""Random networks from the op set, random plans: pruned, they run, equal the masked ones, and cost what was said."""

import copy
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import onnxruntime
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pruning_nets import lively, masked_by_hand
from random_blocks import Block
from random_nets import PLANS, Net, nets
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from pipeline.pruning import Plan, PruneResult, prune

CASES = settings().max_examples  # 100; `make nightly` asks for 2000
NIGHTLY = CASES > 100
SPACES = (0, 1, 2, 3)  # dimensions that a network convolves over; 0 reads words
SOME = {"derandomize": not NIGHTLY, "suppress_health_check": list(HealthCheck)}


def built(net: Net) -> nn.Module:
    torch.manual_seed(0)
    return lively(net.build())


def may_stay_whole(block: Block, plan: dict[str, Any]) -> bool:
    return block.hard or (block.hard_within_heads and "head" not in plan["granularity"])


def close(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and bool((a - b).abs().max() <= 1e-4 * b.abs().max().clamp_min(1e-3))


def equals_masked_by_hand(model: nn.Module, result: PruneResult, x: Tensor) -> None:
    if all(block.by_hand for block in model.blocks):
        wanted, got = masked_by_hand(model, result.plan, result.model)(x), result.model(x)
        assert close(got, wanted)


def costs_what_was_said(result: PruneResult, x: Tensor) -> None:
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        result.model(x)
    assert result.macs_after == counter.get_total_flops() / 2
    assert result.params_after == sum(p.numel() for p in result.model.parameters())


def replays(net: Net, result: PruneResult, x: Tensor) -> None:
    with TemporaryDirectory() as folder:
        result.plan.save(Path(folder) / "plan.json")
        again = Plan.load(Path(folder) / "plan.json").apply(net.build().eval())
    again.load_state_dict(result.model.state_dict())
    assert torch.equal(again(x), result.model(x))


def trains(model: nn.Module, x: Tensor) -> None:
    tuned = copy.deepcopy(model).train()
    tuned(x).square().mean().backward()
    assert all(p.grad is not None and p.grad.shape == p.shape for p in tuned.parameters())
    torch.optim.SGD(tuned.parameters(), lr=0.01).step()
    assert tuned.eval()(x).isfinite().all()


def exports(model: nn.Module, x: Tensor) -> None:
    file = BytesIO()
    torch.onnx.export(model, (x,), file, dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(file.getvalue(), providers=["CPUExecutionProvider"])
    (y,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    assert close(torch.from_numpy(y), model(x))


@pytest.mark.parametrize("space", SPACES)
@settings(max_examples=CASES // len(SPACES), **SOME)
@given(data=st.data(), plan=PLANS)
def test_any_net_prunes_and_equals_the_masked_one(space: int, data: st.DataObject, plan: dict[str, Any]) -> None:
    net = data.draw(nets(space))
    model, x = built(net), net.inputs
    before = {name: value.clone() for name, value in model.state_dict().items()}
    result = prune(model, x, **plan)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert result.proof.holds
    assert "proof" not in result.frozen or any(may_stay_whole(block, plan) for block in model.blocks)
    equals_masked_by_hand(model, result, x)
    for group in result.plan.groups:
        assert group.after % plan["round_to"] == 0
        assert group.after >= min(plan["min_width"], group.before)
    costs_what_was_said(result, x)
    replays(net, result, x)
    trains(result.model, x)


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")  # inside torch's exporter
@settings(max_examples=(CASES if NIGHTLY else 4) // len(SPACES), **SOME)
@given(data=st.data(), plan=PLANS)
def test_what_is_left_of_any_net_exports(space: int, data: st.DataObject, plan: dict[str, Any]) -> None:
    net = data.draw(nets(space))
    exports(prune(built(net), net.inputs, **plan).model, net.inputs)
