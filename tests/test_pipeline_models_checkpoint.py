import json
from importlib.resources import files

import pytest
import torch
import yaml
from safetensors import safe_open
from safetensors.torch import load_file

from pipeline.data.base import ArraySplit
from pipeline.data.fashion_mnist import BUNDLE, MEAN, STD, read_bundle
from pipeline.models.mobilenet_v2 import mobilenet_v2
from pipeline.models.resnet import resnet20
from pipeline.training.evaluate import evaluate

# what builds it, and the least top-1 of 500 test images and of the whole test set
SHIPPED = {
    "fashion_resnet20": (lambda: resnet20(width=32, in_channels=1, classes=10), 0.91, 0.93),
    "fashion_mobilenet_v2": (lambda: mobilenet_v2(width=1.0, in_channels=1, classes=10), 0.81, 0.86),
}


def file_of(name):
    return str(files("pipeline.models") / f"{name}.safetensors")


@pytest.fixture(params=list(SHIPPED))
def name(request):
    return request.param


@pytest.fixture
def header(name):
    with safe_open(file_of(name), "pt") as file:
        return file.metadata()


def test_the_shipped_weights_fit_and_classify(name):
    build, least, _ = SHIPPED[name]
    model = build()
    weights = load_file(file_of(name))
    assert all(torch.isfinite(tensor).all() for tensor in weights.values())
    model.load_state_dict(weights)
    _, (images, labels) = read_bundle(BUNDLE)
    few = ArraySplit(images[:500, None], labels[:500], (MEAN,), (STD,), 1 / 255)
    # below what all 10,000 give by 3 standard deviations of 500 of them
    assert evaluate(model, few).top1 > least


def test_the_header_says_what_the_recipe_says(header, request):
    recipe = yaml.safe_load((request.config.rootpath / header["recipe"]).read_text())
    assert json.loads(header["model"]) == recipe["model"]
    trained = json.loads(header["training"])
    assert recipe["stages"]["finetune"].items() <= trained.items()


def test_the_header_holds_the_accuracy_it_reached(header, name):
    least = SHIPPED[name][2]
    assert float(header["test_top1"]) >= least
    assert float(header["validation_top1"]) >= least
