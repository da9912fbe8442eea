import json
from importlib.resources import files

import pytest
import torch
import yaml
from safetensors import safe_open
from safetensors.torch import load_file

from pipeline.data.base import ArraySplit
from pipeline.data.fashion_mnist import BUNDLE, MEAN, STD, read_bundle
from pipeline.models.resnet import resnet20
from pipeline.training.evaluate import evaluate

SHIPPED = files("pipeline.models") / "fashion_resnet20.safetensors"


@pytest.fixture(scope="module")
def header():
    with safe_open(str(SHIPPED), "pt") as file:
        return file.metadata()


def test_the_shipped_weights_fit_and_classify():
    model = resnet20(width=32, in_channels=1, classes=10)
    weights = load_file(str(SHIPPED))
    assert all(torch.isfinite(tensor).all() for tensor in weights.values())
    model.load_state_dict(weights)
    _, (images, labels) = read_bundle(BUNDLE)
    few = ArraySplit(images[:500, None], labels[:500], (MEAN,), (STD,), 1 / 255)
    # 94% of all 10,000; by chance alone 500 of them stay above 91% (3 standard deviations)
    assert evaluate(model, few).top1 > 0.91


def test_the_header_says_what_the_recipe_says(header, request):
    recipe = yaml.safe_load((request.config.rootpath / header["recipe"]).read_text())
    assert json.loads(header["model"]) == recipe["model"]
    trained = json.loads(header["training"])
    assert recipe["stages"]["finetune"].items() <= trained.items()


def test_the_header_holds_the_accuracy_it_reached(header):
    assert float(header["test_top1"]) >= 0.93
    assert float(header["validation_top1"]) >= 0.93
