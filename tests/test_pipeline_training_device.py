import numpy as np
import pytest
import torch
from torch import nn

from pipeline.errors import UserError
from pipeline.training import device as d

CPU = torch.device("cpu")


def test_auto_prefers_a_gpu_and_falls_back_to_the_cpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert d.resolve_device("auto") == CPU
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert d.resolve_device("auto") == torch.device("cuda")


@pytest.mark.parametrize("name", ["cuda:77", "abacus"])
def test_a_device_that_is_not_there_is_one_line(name):
    with pytest.raises(UserError, match=f"accelerator: '{name}' cannot be used here .*; try auto or cpu") as error:
        d.resolve_device(name)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("devices", "accelerator", "there", "expected"),
    [
        ("auto", "auto", 0, 1),
        ("auto", "auto", 3, 3),
        ("auto", "cpu", 3, 1),
        ("auto", "cuda", 3, 3),
        ("auto", "cuda:1", 3, 1),
        (1, "auto", 3, 1),
        (2, "auto", 3, 2),
        (5, "cpu", 3, 5),
        (2, "auto", 0, 2),
        (1, "cuda:1", 3, 1),
    ],
)
def test_how_many_devices(monkeypatch, devices, accelerator, there, expected):
    see(monkeypatch, there)
    assert d.resolve_count(devices, accelerator) == expected


@pytest.mark.parametrize(
    ("devices", "accelerator", "message"),
    [
        (4, "auto", "^devices: 4, but CUDA sees 3 here; use auto, or at most 3$"),
        (4, "cuda", "^devices: 4, but CUDA sees 3 here"),
        (2, "cuda:1", "^devices: 2, but accelerator 'cuda:1' is one device; use cuda, cpu or auto$"),
        (2, "meta", "^devices: 2, but accelerator 'meta' is one device"),
    ],
)
def test_devices_that_are_not_there(monkeypatch, devices, accelerator, message):
    see(monkeypatch, 3)
    with pytest.raises(UserError, match=message):
        d.resolve_count(devices, accelerator)


def see(monkeypatch, there):
    """Make it a machine with so many GPUs, which cannot compute."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: there)
    monkeypatch.setattr(torch, "empty", lambda size, device: None)


@pytest.mark.parametrize("supported", [True, False])
def test_auto_precision_asks_the_cpu(monkeypatch, supported):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": supported})
    assert d.resolve_dtype("auto", CPU) == (torch.bfloat16 if supported else torch.float32)
    assert d.resolve_dtype("bf16", CPU) == torch.bfloat16
    assert d.resolve_dtype("f32", CPU) == torch.float32


def test_f16_is_for_gpus():
    assert d.resolve_dtype("f16", torch.device("cuda")) == torch.float16
    with pytest.raises(UserError, match=r"^precision: f16 trains on a CUDA GPU only, this is cpu; use auto, bf16"):
        d.resolve_dtype("f16", CPU)


def test_layouts():
    model = nn.Sequential(nn.Conv2d(4, 8, 3), nn.Flatten(), nn.Linear(8, 2))
    x = np.random.default_rng(0).normal(size=(5, 4, 3, 3)).astype(np.float32)
    before = model(torch.from_numpy(x))
    d.place(model, CPU, torch.channels_last)
    assert model[0].weight.is_contiguous(memory_format=torch.channels_last)
    on_device = d.to_device(x, CPU)
    assert on_device.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(model(on_device), before)
    assert torch.equal(on_device, torch.from_numpy(x))


@pytest.mark.parametrize("shape", [(5, 3), (5, 3, 7)])
def test_inputs_of_any_rank_become_float32(shape):
    x = np.ones((*shape, 2))[..., 0]  # float64, not contiguous
    tensor = d.to_device(x, CPU)
    assert (tensor.dtype, tuple(tensor.shape)) == (torch.float32, shape)
