"""Events, the simulated camera, archives and the DataModules made of them."""

import itertools
import pickle
import zipfile

import numpy as np
import pytest
import pytorch_lightning as pl
import tonic
import torch

from lightning_modules import DigitEvents, EventArchive
from lightning_modules.data.event_frames import Frames, time_first
from lightning_modules.data.split import Split
from lightning_modules.data.split_data import Batch
from lightning_modules.training.lightning_warnings import quiet_lightning
from snn_async.data.archive import KEYS, Recordings, load_archive, save_archive, write_npz
from snn_async.data.camera import SaccadeCamera
from snn_async.data.events import EVENT_DTYPE, bin_events, check_events, crop
from snn_async.errors import ConfigError, DataError

SENSOR = (3, 5, 2)  # high, wide, polarities


def random_arrays(recordings=40, seed=0):
    """An archive's arrays, in the types N-MNIST subsets are stored in; recording 3 is empty."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(20, 40, recordings)
    counts[3] = 0
    total = counts.sum()
    return {
        "x": rng.integers(0, 5, total).astype(np.uint8),
        "y": rng.integers(0, 3, total).astype(np.uint8),
        "p": rng.integers(0, 2, total).astype(np.uint8),
        "t": np.concatenate([np.sort(rng.integers(0, 10_000, n)) for n in counts]).astype(np.uint32),
        "offset": np.concatenate([[0], np.cumsum(counts)]),
        "label": (np.arange(recordings) % 4).astype(np.uint8),
    }


@pytest.fixture
def arrays():
    return random_arrays()


@pytest.fixture
def path(tmp_path, arrays):
    np.savez_compressed(tmp_path / "events.npz", **arrays)
    return tmp_path / "events.npz"


# --- events


def test_event_arrays_are_tonics():
    assert tonic.io.events_struct == EVENT_DTYPE
    events = tonic.io.make_structured_array([4, 0], [2, 1], [0, 7], [1, 0])
    assert (check_events(events, SENSOR) == events).all()
    with pytest.raises(DataError, match=r"recording 6: x\[0\] = 4 is outside 0..2"):
        check_events(events, (5, 3, 2), recording=6)
    with pytest.raises(DataError, match="lacks p"):
        check_events(events[["x", "y", "t"]], SENSOR)


@pytest.mark.parametrize(
    "t, says", [(0.25, "not a whole number; t is in whole microseconds"), (np.nan, "not finite")]
)
def test_fractional_times_are_refused(t, says):
    events = np.array([(0, 0, 0, 1), (0, 0, t, 1)], [("x", "i2"), ("y", "i2"), ("t", "f8"), ("p", "?")])
    with pytest.raises(DataError, match=rf"t\[1\] = {t} is {says}"):
        check_events(events, SENSOR)


def test_binning_is_a_histogram(arrays):
    n = arrays["offset"][1]
    events = tonic.io.make_structured_array(*(arrays[key][:n].astype(np.int64) for key in "xytp"))
    frames = bin_events(events, SENSOR, time_window_us=1500, frames=6, start_us=500)
    window = (events["t"] - 500) // 1500
    events, window = events[(window >= 0) & (window < 6)], window[(window >= 0) & (window < 6)]
    cell = np.ravel_multi_index((window, events["p"].astype(int), events["y"], events["x"]), frames.shape)
    assert frames.dtype == np.float32 and len(events) > 10
    assert (frames.ravel() == np.bincount(cell, minlength=frames.size)).all()


def test_edges_of_windows():
    events = tonic.io.make_structured_array([0] * 4, [0] * 4, [9, 10, 19, 20], [1] * 4)
    assert crop(events, 10, 10)["t"].tolist() == [10, 19]
    assert bin_events(events, SENSOR, 10, 2)[:, 1, 0, 0].tolist() == [1, 2]
    assert bin_events(events[:0], SENSOR, 10, 2).shape == (2, 2, 3, 5)


# --- camera


def test_a_bright_edge_crosses_when_calculated_by_hand():
    # One pixel, starting halfway between black and white columns and moved onto the black one in the first
    # saccade and back in the third: log(0.5 + 0.5) = 0 falls to log(0.5) = -0.693, and rises again.
    # Darker at 0.25 / 0.693 and 0.5 / 0.693 of the first ms; brighter at (0.693 - 0.25) / 0.693 of the third.
    camera = SaccadeCamera(
        1, 1, scale=1, amplitude=1, saccade_us=1000, steps=1, threshold=0.25, dark=0.5, noise_hz=0
    )
    image = np.tile([0.0, 0.0, 1.0], (1, 5, 1))
    events, offset = camera.record(image, np.random.default_rng(0))
    assert events["t"].tolist() == [360, 721, 2639]
    assert events["p"].tolist() == [False, False, True] and offset.tolist() == [0, 3]


def test_recordings_are_deterministic_sorted_and_on_the_sensor():
    images = np.random.default_rng(1).random((4, 8, 8))
    camera = SaccadeCamera(noise_hz=5)
    events, offset = camera.record(images, np.random.default_rng(0))
    again, _ = camera.record(images, np.random.default_rng(0))
    other, _ = camera.record(images, np.random.default_rng(1))
    assert (events == again).all() and (len(events) != len(other) or (events != other).any())
    for i in range(4):
        check_events(events[offset[i] : offset[i + 1]], camera.sensor_size)
    assert events["t"].max() < camera.duration_us and 0.2 < events["p"].mean() < 0.8


def test_noise_is_as_frequent_as_asked():
    camera = SaccadeCamera(noise_hz=10)
    events, _ = camera.record(np.zeros((50, 8, 8)), np.random.default_rng(0))
    assert len(events) == pytest.approx(10 * 400 * 0.3 * 50, rel=0.02)


def test_the_camera_refuses_by_name():
    for option in ({"threshold": 0}, {"scale": np.inf}, {"dark": "0.3"}, {"steps": True}):
        with pytest.raises(ConfigError, match="{}={!r}: give".format(*next(iter(option.items())))):
            SaccadeCamera(**option)
    with pytest.raises(DataError, match="images from 0.0 to 16.0: scale"):
        SaccadeCamera().record(np.array([[[0.0, 16.0]]]), np.random.default_rng(0))


# --- archives


def test_an_archive_is_read_as_written(path, arrays, tmp_path):
    archive = load_archive(path, SENSOR)
    assert len(archive) == 40 and len(archive[3]) == 0
    save_archive(tmp_path / "again.npz", archive)
    again = load_archive(tmp_path / "again.npz", SENSOR)
    for key in "xytp":
        assert (again.events[key] == arrays[key]).all()
    assert (again.offset == arrays["offset"]).all() and (again.label == arrays["label"]).all()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["again.npz", "events.npz"]
    with np.load(tmp_path / "again.npz") as file:
        assert set(file.files) == set(KEYS)


def change(key, at, value, dtype=np.int64):
    def damage(arrays):
        arrays[key] = arrays[key].astype(dtype)
        arrays[key][at] = value

    return damage


def shorten(key, by):
    return lambda arrays: arrays.update({key: arrays[key][: len(arrays[key]) - by]})


BAD_ARCHIVES = {
    r"lacks offset, label: it needs x, y, t, p, offset, label and has x, y, p, t": lambda a: [
        a.pop(key) for key in ("offset", "label")
    ],
    r"recording 0: t\[1\] = \d+ us comes after 99999 us: .* sort": change("t", 0, 99_999),
    r"recording 0: t\[2\] = -5 is negative": change("t", 2, -5),
    r"recording 0: t\[0\] = nan is not finite": change("t", 0, np.nan, float),
    r"recording 0: x\[4\] = 5 is outside 0..4; .*sensor_size": change("x", 4, 5),
    r"recording 39: y\[\d+\] = -1 is outside 0..2": change("y", -1, -1),
    r"p\[0\] = -1 is outside 0..1; use 0 for darker": change("p", 0, -1),
    r"offset\[2\] = 0 is less than offset\[1\]": change("offset", 2, 0),
    r"offset has 41 entries, 0 to 7; .* from 0 to the number of events, \d+": change("offset", -1, 7),
    r"equally long, but have lengths x (\d+), y \1, t \d+, p \1": shorten("t", 1),
    r"label has 39 entries for 40 recordings": shorten("label", 1),
    r"label\[6\] = -1; number the classes from 0": change("label", 6, -1),
    r"label\[6\] = 10{12}; number the classes from 0 to at most 65535": change("label", 6, 10**12),
    r"label\[6\] = 18446744073709551615; number": change("label", 6, 2**64 - 1, np.uint64),
    r"label has dtype float64; use integers": change("label", 6, 1.5, float),
    r"x has dtype <U3; use integers": change("x", 0, "one", "U3"),
    r"t has shape \(\d+, 1\)": lambda a: a.update(t=a["t"][:, None]),
    r"cannot be read \(label: ValueError\): .* no .npz of plain arrays": lambda a: a.update(
        label=np.array([{}] * 40)
    ),
}


@pytest.mark.parametrize("says", BAD_ARCHIVES)
def test_a_bad_archive_is_refused(says, arrays, tmp_path):
    BAD_ARCHIVES[says](arrays)
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(DataError, match=rf"bad.npz.*{says}"):
        load_archive(tmp_path / "bad.npz", SENSOR)


def test_times_may_fall_from_one_recording_to_the_next(path):
    time, offset = load_archive(path).events["t"], load_archive(path).offset
    assert (np.diff(time)[offset[1:3] - 1] < 0).any()


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty", "npy", "pickle", "junk", "absent"])
def test_a_damaged_file_is_refused(damage, path):
    content = bytearray(path.read_bytes())
    if damage == "absent":
        path.unlink()
    elif damage == "npy":
        with path.open("wb") as file:
            np.save(file, np.zeros(3))
    elif damage == "junk":
        with zipfile.ZipFile(path, "w") as file:
            for key in KEYS:
                file.writestr(f"{key}.npy", "junk")
    else:
        content[200:220] = bytes(20) if damage == "flipped" else content[200:220]
        keep = {"truncated": content[:-100], "empty": b"", "pickle": pickle.dumps([1])}
        path.write_bytes(keep.get(damage, content))
    says = "give the path" if damage == "absent" else "truncated, damaged or no .npz"
    with pytest.raises(DataError, match=says) as caught:
        load_archive(path)
    assert "allow_pickle" not in str(caught.value)


def test_an_unwritable_folder_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    empty = Recordings(np.zeros(0, EVENT_DTYPE), np.array([0, 0]), np.array([0]))
    with pytest.raises(ConfigError, match="cannot be written"):
        save_archive(tmp_path / "file" / "a.npz", empty)


# --- splits


def test_a_split_is_disjoint_stratified_and_stable():
    label = np.repeat(np.arange(4), [40, 40, 80, 40])
    parts = Split(val_fraction=0.2, test_fraction=0.1).indices(label)
    assert sorted(itertools.chain(*parts.values())) == list(range(200))
    assert [np.bincount(label[parts[p]]).tolist() for p in ("val", "test")] == [[8, 8, 16, 8], [4, 4, 8, 4]]
    again = Split(val_fraction=0.2, test_fraction=0.1).indices(label)
    other = Split(val_fraction=0.2, test_fraction=0.1, seed=1).indices(label)
    assert (parts["test"] == again["test"]).all() and (parts["test"] != other["test"]).any()
    assert parts["test"][:6].tolist() == [0, 3, 9, 38, 50, 63]


def test_folds_cover_everything_once():
    label = np.arange(100) % 5
    splits = [Split(val_fraction=0.1, folds=5, fold=i).indices(label) for i in range(5)]
    assert sorted(itertools.chain(*(s["test"] for s in splits))) == list(range(100))
    for parts in splits:
        assert {name: len(part) for name, part in parts.items()} == {"train": 70, "val": 10, "test": 20}
        assert sorted(itertools.chain(*parts.values())) == list(range(100))


@pytest.mark.parametrize(
    "options, says",
    [
        ({"val_fraction": 1.5}, "val_fraction=1.5"),
        ({"test_fraction": "0.1"}, "test_fraction='0.1'"),
        ({"val_fraction": 0.5, "test_fraction": 0.5}, "leave no training set"),
        ({"folds": 1}, "folds=1: give a whole number of at least 2"),
        ({"folds": 2.5}, "folds=2.5"),
        ({"folds": 5, "fold": 5}, r"fold=5: give .* \(folds=5\)"),
        ({"folds": 5, "fold": 1.5}, "fold=1.5"),
        ({"split_seed": -1}, "split_seed=-1"),
        ({"split_seed": 1.5}, "split_seed=1.5"),
        ({"stratified": "no"}, "stratified='no'"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"batch_size": True}, "batch_size=True"),
        ({"num_workers": -1}, "num_workers=-1"),
        ({"frames": 0}, "frames=0"),
        ({"time_window_us": 2.5}, "time_window_us=2.5"),
        ({"first_ms": 0}, "first_ms=0"),
        ({"first_ms": np.nan}, "first_ms=nan"),
        ({"first_ms": "all"}, "first_ms='all'"),
        ({"sensor_size": [3, 5, 1]}, r"sensor_size=\[3, 5, 1\]"),
        ({"sensor_size": [8.0, 8.0]}, r"sensor_size=\[8.0, 8.0\]"),
        ({"sensor_size": 8.0}, "sensor_size=8.0"),
        ({"sensor_size": None}, "sensor_size=None"),
        ({"sensor_size": 2**15 + 1}, "sensor_size=32769"),  # more than tonic's int16 holds
        ({"batchsize": 3}, "batchsize: no option of EventArchive; it has path, .*batch_size"),
    ],
)
def test_options_are_refused_at_construction(options, says):
    with pytest.raises(ConfigError, match=says):
        EventArchive(**{"path": "a.npz", "sensor_size": [3, 5], **options})


def test_numpys_numbers_are_options_too(path):
    options = {"folds": np.int64(4), "fold": np.int8(1), "batch_size": np.int64(7), "first_ms": np.float32(5)}
    module = EventArchive(str(path), np.array([3, 5]), val_fraction=np.float32(0), **options)
    assert next(iter(module.test_dataloader())).x.shape[1] == 7
    assert DigitEvents(camera=SaccadeCamera(np.int64(20))).cache_file == DigitEvents().cache_file


def test_too_few_recordings_for_the_folds(path):
    with pytest.raises(DataError, match=r"40 recordings, \[10, 10, 10, 10\] per class.*fewer folds"):
        EventArchive(str(path), [3, 5], folds=12).setup()


# --- DataModules


def test_archive_batches_have_time_first_and_ids(path):
    module = EventArchive(str(path), [3, 5], time_window_us=1000, val_fraction=0.1, test_fraction=0.2)
    assert (module.sensor_size, module.input_shape, module.timesteps, module.num_classes) == (
        SENSOR,
        (2, 3, 5),
        10,
        4,
    )
    archive = load_archive(path)
    x, y, ids = next(iter(module.test_dataloader()))
    assert x.shape == (10, 8, 2, 3, 5) and x.dtype == torch.float32 and x.is_contiguous()
    assert y.dtype == ids.dtype == torch.int64 and ids.tolist() == module.parts["test"].tolist()
    for b, i in enumerate(ids.tolist()):
        assert (x[:, b].numpy() == bin_events(archive[i], SENSOR, 1000, 10)).all() and y[b] == archive.label[
            i
        ]
    one = module.test_dataloader().dataset[2]
    assert (one.x == x[:, 2]).all() and one.sample_ids == ids[2]


class Echo(pl.LightningModule):
    def predict_step(self, batch):
        return batch.sample_ids


@pytest.mark.parametrize("workers", [0, 1])
def test_lightning_predicts_in_order(path, workers):
    module = EventArchive(str(path), [3, 5], test_fraction=0.4, batch_size=3, num_workers=workers)
    with quiet_lightning():
        trainer = pl.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False)
        assert torch.cat(trainer.predict(Echo(), datamodule=module)).tolist() == module.parts["test"].tolist()


def test_parts_may_be_empty(path):
    module = EventArchive(str(path), [3, 5], val_fraction=0, test_fraction=0)
    assert len(module.train_dataloader().dataset) == 40 and module.val_dataloader() == []
    with pytest.raises(ConfigError, match="test_fraction=0 leaves no test set"):
        module.test_dataloader()


def test_training_batches_cover_the_part_in_another_order_each_time(path):
    module = EventArchive(str(path), [3, 5], val_fraction=0, batch_size=8)
    loader, part = module.train_dataloader(), module.parts["train"].tolist()
    first, second = (torch.cat([batch.sample_ids for batch in loader]).tolist() for _ in range(2))
    assert sorted(first) == sorted(second) == part and first != second


def test_first_ms_crops_inside_a_window(path):
    whole = EventArchive(str(path), [3, 5], time_window_us=1000).frames
    module = EventArchive(str(path), [3, 5], time_window_us=1000, first_ms=2.5)
    time = load_archive(path).events["t"]
    assert module.timesteps == 3 and module.frames.counts.sum() == (time < 2500).sum()
    assert (module.frames.counts[:, :2] == whole.counts[:, :2]).all()


def test_binarize_clips(path):
    options = {"path": str(path), "sensor_size": [3, 5], "time_window_us": 10_000}
    counts, clipped = (
        EventArchive(**options).frames.counts,
        EventArchive(**options, binarize=True).frames.counts,
    )
    assert counts.max() > 1 and (clipped == counts.clamp(max=1)).all()


def test_counts_above_255_are_kept(tmp_path):
    events = np.zeros(300, EVENT_DTYPE)
    save_archive(tmp_path / "hot.npz", Recordings(events, np.array([0, 300]), np.array([0])))
    module = EventArchive(str(tmp_path / "hot.npz"), [1, 1], val_fraction=0, test_fraction=0)
    assert next(iter(module.train_dataloader())).x.max() == 300


def test_times_that_do_not_start_near_zero_are_refused(tmp_path, arrays):
    arrays["t"] = arrays["t"].astype(np.int64) + 10**9
    np.savez(tmp_path / "late.npz", **arrays)
    with pytest.raises(DataError, match="no recording has an event in the first 10000 us"):
        EventArchive(str(tmp_path / "late.npz"), [3, 5], first_ms=10).setup()
    with pytest.raises(DataError, match="more than 8 GiB"):
        EventArchive(str(tmp_path / "late.npz"), [3, 5], time_window_us=1).setup()


def test_collating_swaps_batch_and_time():
    counts = torch.arange(24, dtype=torch.uint8).reshape(2, 3, 1, 2, 2)
    assert time_first(Batch(counts, torch.zeros(2), torch.zeros(2))).x[1, 0, 0].tolist() == [[4, 5], [6, 7]]


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    module = DigitEvents(cache_dir=str(tmp_path_factory.mktemp("cache")))
    module.prepare_data()
    return module


def test_digits_are_what_they_say(digits):
    assert (digits.input_shape, digits.timesteps, digits.num_classes) == ((2, 20, 20), 10, 10)
    assert {part: len(ids) for part, ids in digits.parts.items()} == {"train": 1257, "val": 270, "test": 270}
    per_recording = digits.frames.counts.sum((1, 2, 3, 4)).float()
    assert 500 < per_recording.min() < 1000 < per_recording.mean() < 1200
    assert digits.frames.counts.sum() == len(digits.archive.events)


def test_the_cache_is_used_and_identical(digits, monkeypatch):
    monkeypatch.setattr(SaccadeCamera, "record", None)
    again = DigitEvents(cache_dir=str(digits.cache_dir))
    assert (again.frames.counts == digits.frames.counts).all()
    others = [{"camera": SaccadeCamera(noise_hz=2)}, {"frames": 5}, {"camera_seed": 1}, {"time_window_us": 9}]
    files = {DigitEvents(cache_dir=str(digits.cache_dir), **other).cache_file for other in others}
    assert len(files | {digits.cache_file}) == 5


def test_a_damaged_cache_is_made_again(tmp_path, monkeypatch, caplog):
    module = DigitEvents(frames=1, cache_dir=str(tmp_path))
    kept = Frames(np.ones((2, 1, 2, 20, 20), np.uint8), np.array([7, 0]))
    module.archive = None  # nothing is simulated
    monkeypatch.setattr("lightning_modules.data.digit_events.bin_archive", lambda *_: kept)
    whole = module.load_frames() and module.cache_file.read_bytes()
    for damage in (
        lambda: module.cache_file.write_bytes(whole[:-50]),
        lambda: write_npz(module.cache_file, counts=kept.counts, label=np.array(["7", "0"])),
        lambda: write_npz(module.cache_file, counts=kept.counts, label=np.array([7, 10**12])),
        lambda: write_npz(module.cache_file, counts=kept.counts, label=np.array(7)),
        lambda: write_npz(module.cache_file, counts=kept.counts.astype("U1"), label=kept.label),
    ):
        damage()
        with caplog.at_level("INFO"):
            assert (module.load_frames().label == kept.label).all()
            assert "Making the digit events again" in caplog.text
            caplog.clear()
            assert (module.load_frames().counts == kept.counts).all() and not caplog.text


def test_an_unwritable_cache_is_refused_before_the_work(tmp_path, monkeypatch):
    monkeypatch.setattr(SaccadeCamera, "record", None)
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cache_dir: cannot write to"):
        DigitEvents(cache_dir=str(tmp_path / "file" / "cache")).prepare_data()
