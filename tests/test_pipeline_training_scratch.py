import copy

import pytest
import torch
from torch import nn
from training_runs import DATA, QUICK, equal, make_model, weights

from pipeline.errors import UserError
from pipeline.models.resnet import resnet
from pipeline.training.loop import fit
from pipeline.training.scratch import keep_zeros, reinitialise


def test_everything_is_drawn_anew_as_torch_draws_it(tmp_path):
    model = make_model()
    fit(model, DATA, QUICK, tmp_path)
    learned = weights(model)
    reinitialise(model, 7)
    for name, tensor in model.state_dict().items():
        layer = model.get_submodule(name.rpartition(".")[0])
        if isinstance(layer, nn.BatchNorm2d):
            fresh = nn.BatchNorm2d(layer.num_features).state_dict()
            assert torch.equal(tensor, fresh[name.rpartition(".")[2]])
        else:
            assert not torch.isclose(tensor, learned[name], rtol=1e-6).any()
            fan_in = layer.weight[0].numel()
            assert tensor.abs().max() <= fan_in**-0.5  # nn.Linear's and nn.Conv2d's uniform bound
            assert tensor.abs().max() > 0.5 * fan_in**-0.5


def test_it_depends_on_the_seed_alone_and_leaves_the_callers_random_state():
    one, other = resnet(8, 4, 1, 4, seed=0), resnet(8, 4, 1, 4, seed=1)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    reinitialise(one, 3)
    assert torch.equal(torch.rand(3), expected)
    reinitialise(other, 3)
    assert equal(weights(one), weights(other))
    reinitialise(other, 4)
    assert not equal(weights(one), weights(other))


def test_attention_is_drawn_anew_too():
    model = nn.TransformerEncoderLayer(8, 2, 16)
    for parameter in model.parameters():
        nn.init.constant_(parameter, 9.0)
    reinitialise(model, 0)
    assert all(parameter.abs().max() < 2 for parameter in model.parameters())


class Scaled(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.scale = nn.Parameter(torch.ones(4))

    def forward(self, x):
        return self.first(x) * self.scale


@pytest.mark.parametrize(
    ("model", "who"), [(nn.Sequential(nn.Linear(4, 4), Scaled()), "1"), (Scaled(), "the model")], ids=["inner", "outer"]
)
def test_parameters_that_would_stay_are_named_and_nothing_changes(model, who):
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(UserError, match=rf"^from_scratch: {who} \(Scaled\) has parameters but no reset_parameters\(\)"):
        reinitialise(model, 0)
    assert equal(before, model.state_dict())


def test_zeros_are_put_back():
    model = nn.Linear(4, 3)
    mask = torch.tensor([[True, False, True, False]] * 3)
    keep_zeros(model, {"weight": mask})
    assert torch.equal(model.weight != 0, mask)
    assert model.bias.all()
