import pytest
import torch
from torch import nn

from pipeline.errors import UserError
from pipeline.models.resnet import resnet
from pipeline.training.taps import match, recording

IMAGES = torch.zeros(2, 1, 16, 16)


def names(taps):
    return [tap.name for tap in taps]


class Patches(nn.Module):
    """A transformer's layout: tokens, with the channels last."""

    def __init__(self, width):
        super().__init__()
        self.patch = nn.Conv2d(1, width, 4, 4)
        self.first, self.second = nn.Linear(width, width), nn.Linear(width, width)
        self.head = nn.Linear(width, 3)

    def forward(self, x):
        tokens = self.patch(x).flatten(2).transpose(1, 2)
        return self.head(self.second(self.first(tokens)).mean(1))


def test_a_resnet_is_tapped_at_the_end_of_each_stage():
    taps = match(resnet(14, 4, 1, 3), resnet(14, 6, 1, 3), IMAGES)
    assert names(taps) == ["layer1", "layer2", "layer3"]
    assert [(t.dim, t.student, t.teacher, t.size) for t in taps] == [
        (1, 4, 6, (16, 16)),
        (1, 8, 12, (8, 8)),
        (1, 16, 24, (4, 4)),
    ]


def test_equal_widths_and_wrappers_around_change_nothing():
    wrapped = [nn.Sequential(nn.Dropout(0.1), resnet(8, 4, 1, 3)) for _ in range(2)]
    assert names(match(*wrapped, IMAGES)) == ["1.layer1", "1.layer2", "1.layer3"]
    assert wrapped[0].training


def test_a_flat_network_is_tapped_before_each_reduction():
    def build(width):
        layers = nn.Conv2d(1, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, 8, 3, 2, 1), nn.ReLU()
        return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))

    assert names(match(build(4), build(6), IMAGES)) == ["1", "3"]


def test_tokens_have_their_channels_last():
    taps = match(Patches(8), Patches(12), IMAGES)
    assert [(t.name, t.dim, t.size) for t in taps] == [("patch", 1, (4, 4)), ("second", 2, (16,))]
    assert match(Patches(8), Patches(8), IMAGES)[1].dim == 2


def test_without_maps_the_last_hidden_layer_is_taken_and_never_the_answer():
    def build(width):
        return nn.Sequential(nn.Flatten(), nn.Linear(256, width), nn.ReLU(), nn.Linear(width, 3))

    assert names(match(build(5), build(9), IMAGES)) == ["2"]


def test_modules_that_run_twice_or_only_in_one_do_not_count():
    class Twice(nn.Module):
        def __init__(self, more):
            super().__init__()
            self.conv = nn.Conv2d(1, 1, 3, padding=1)
            self.more = nn.ReLU() if more else None

        def forward(self, x):
            x = self.conv(self.conv(x))
            return (self.more(x) if self.more else x).mean((2, 3))

    assert match(Twice(True), Twice(False), IMAGES) == []


def test_named_taps_are_taken_in_the_order_they_run():
    taps = match(resnet(8, 4, 1, 3), resnet(8, 6, 1, 3), IMAGES, ["layer3.0.conv1", "bn1"])
    assert names(taps) == ["bn1", "layer3.0.conv1"]


@pytest.mark.parametrize("name", ["layer9", "fc", "layer1.0.nothing"])
def test_a_tap_that_cannot_be_is_one_line_with_those_that_can(name):
    with pytest.raises(UserError, match=f"distill.taps: '{name}' does not run once in both .*layer1") as error:
        match(resnet(8, 4, 1, 3), resnet(8, 6, 1, 3), IMAGES, [name])
    assert "\n" not in str(error.value)


def test_no_hook_stays_behind_even_after_an_error():
    model = nn.Sequential(nn.Linear(4, 4))
    with pytest.raises(RuntimeError), recording(model, ["0"]):
        model(torch.zeros(2, 3))
    assert not model[0]._forward_hooks
