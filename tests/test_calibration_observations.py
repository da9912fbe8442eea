import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from calibration_nets import resnet, samples, saved, single_conv
from hypothesis import given, settings
from hypothesis import strategies as st

from calibration.collect import collect, observe
from calibration.errors import CalibrationError
from calibration.observations import Observations, merge
from calibration.observers import make, names
from calibration.observers.minmax import Minmax
from calibration.observers.percentile import Percentile

UNORDERED = [name for name in names() if not make(name).ordered]


@pytest.fixture(scope="module")
def path(tmp_path_factory) -> Path:
    return saved(resnet(), tmp_path_factory.mktemp("net"))


def written(ranges, folder: Path) -> bytes:
    ranges.save(folder / "ranges.json")
    return (folder / "ranges.json").read_bytes()


@settings(deadline=None, max_examples=8)
@given(st.sampled_from(UNORDERED), st.lists(st.integers(0, 2), min_size=8, max_size=8), st.randoms())
def test_any_split_over_shards_gives_the_file_of_one_process(tmp_path_factory, path, name, owner, random):
    folder = tmp_path_factory.mktemp("shards")
    x = samples(8)
    whole = written(collect(path, [{"x": x}], make(name)), folder)
    files = []
    for shard in sorted(set(owner)):
        part = [{"x": x[i : i + 1]} for i in range(8) if owner[i] == shard]
        random.shuffle(part)
        files.append(folder / f"{shard}.shard")
        observe(path, part, make(name)).save(files[-1])
    random.shuffle(files)
    merged = merge([Observations.load(file) for file in files])
    assert merged.samples == 8
    assert written(merged.ranges(), folder) == whole


@pytest.mark.parametrize("name", names())
def test_a_file_holds_everything_and_is_the_same_each_time(tmp_path, path, name):
    observed = observe(path, [{"x": samples(3)}], make(name))
    observed.save(tmp_path / "a")
    loaded = Observations.load(tmp_path / "a")
    assert loaded.ranges() == observed.ranges()
    loaded.save(tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_merging_leaves_the_shards_as_they_were(path):
    one, other = (observe(path, [{"x": samples(1, seed=i)}], Percentile()) for i in range(2))
    before = one.ranges(), other.ranges()
    merge([one, other])
    assert (one.ranges(), other.ranges()) == before


def test_a_tensor_that_one_shard_never_saw():
    observer = Minmax()
    empty, full = observer.start(), observer.start()
    full.update(np.asarray([1, 2], np.float32))
    shards = [Observations({"t": empty}, 1, observer, "k"), Observations({"t": full}, 1, observer, "k")]
    assert not shards[0].ranges().tensors
    assert merge(shards).ranges() == merge(shards[::-1]).ranges()
    assert merge(shards).ranges().tensors["t"].high == 2


def test_shards_that_do_not_fit(tmp_path, path):
    one = observe(path, [{"x": samples(1)}], Percentile())
    for other, message in (
        (observe(path, [{"x": samples(1)}], Percentile(99)), "shard 1 has another observer or other options"),
        (observe(path, [{"x": samples(1)}], Percentile(), only=["x"]), "shard 1 has other tensors than shard 0"),
        (
            observe(saved(single_conv(), tmp_path), [{"x": samples(1, (3, 8, 8))}], Percentile()),
            "shard 1 has observed another model",
        ),
    ):
        with pytest.raises(CalibrationError, match=message):
            merge([one, other])
    with pytest.raises(CalibrationError, match="no shards"):
        merge([])


# Ids of their own: those pytest makes of the bytes would hold gzip's time stamp, and differ between workers.
SOMETHING_ELSE = {
    "empty": b"",
    "text": b"text",
    "broken": gzip.compress(b"{"),
    "list": gzip.compress(b"[]"),
    "other": gzip.compress(b'{"schema": "other"}'),
    "before_2": gzip.compress(b'{"schema": "edgesmith.observations/1"}'),
    "wrong_kind": gzip.compress(json.dumps({"schema": "edgesmith.observations/2", "model": 3}).encode()),
    "cut": gzip.compress(b"x" * 1000)[:-20],
}


@pytest.mark.parametrize("content", SOMETHING_ELSE.values(), ids=SOMETHING_ELSE)
def test_files_that_are_something_else(tmp_path, content):
    file = tmp_path / "shard"
    file.write_bytes(content)
    with pytest.raises(CalibrationError, match="observe this shard again") as caught:
        Observations.load(file)
    assert str(file) in str(caught.value)
    with pytest.raises(CalibrationError, match="no such file"):
        Observations.load(tmp_path / "none")
