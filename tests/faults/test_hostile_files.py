"""Files that are damaged, foreign or made to hurt, at every place where one is read."""

import io
import pathlib
import pickle
import struct
import tracemalloc
import zipfile

import numpy as np
import PIL.Image
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_modules import SpikingClassifier
from lightning_modules.cli import main
from lightning_modules.data.image_reading import load_images
from lightning_modules.training.checkpoints import read_checkpoint
from snn_async.data.archive import FIELDS, load_archive
from snn_async.errors import CheckpointError, DataError

ARRAYS = {
    **{name: np.arange(40, dtype=np.uint16) % 2 for name in "xyp"},
    "t": np.arange(40),
    "offset": np.array([0, 15, 40]),
    "label": np.array([0, 1]),
}
MEMORY = 2**24  # bytes; the files here are of some kilobytes


def archive(compressed):
    file = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(file, **ARRAYS)
    return file.getvalue()


WHOLE = {compressed: archive(compressed) for compressed in (False, True)}


def header(descr, shape, version=(1, 0)):
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    length = len(text).to_bytes(2 if version == (1, 0) else 4, "little")
    return b"\x93NUMPY" + bytes(version) + length + text


def archive_of(entries, method=zipfile.ZIP_DEFLATED):
    """An .npz that holds `entries` in place of some of its arrays."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as whole:
        for name, array in ARRAYS.items():
            buffer = io.BytesIO()
            np.save(buffer, array)
            whole.writestr(f"{name}.npy", entries.get(name, buffer.getvalue()))
    return file.getvalue()


@st.composite
def damaged(draw):
    """An archive with bytes changed, cut out, put in or cut off."""
    content = bytearray(WHOLE[draw(st.booleans())])
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(content)))
        kind = draw(st.sampled_from(("change", "remove", "insert", "end")))
        if kind == "end":
            del content[at:]
        else:
            new = b"" if kind == "remove" else draw(st.binary(min_size=1, max_size=8))
            content[at : at + (0 if kind == "insert" else draw(st.integers(1, 8)))] = new
    return bytes(content)


numbers = st.integers(-3, 2**70) | st.sampled_from((0, 1, 2, 40, 2**31, 2**63))
shapes = st.lists(numbers, max_size=3).map(tuple) | st.sampled_from(
    ("None", "(40, )", "40", "(True, )", "[40]")
)
kinds = (
    "<i8",
    "<f8",
    "<u2",
    "|b1",
    "|O",
    "<U0",
    "|V0",
    "|S0",
    "<S999999999",
    "<M8[us]",
    "<c16",
    "junk",
    "<i8,<i8",
)
descrs = st.sampled_from([repr(kind) for kind in (*kinds, [("a", "<i8")], [("a", "|O")])] + ["()", "9" * 500])


@st.composite
def lying(draw):
    """An archive one of whose arrays is not what its header says, or holds numbers from anywhere."""
    name = draw(st.sampled_from([*FIELDS, "offset", "label"]))
    data = np.array(draw(st.lists(st.integers(-(2**63), 2**63 - 1), max_size=40)), np.int64).tobytes()
    version = draw(st.sampled_from(((1, 0), (2, 0), (3, 0), (9, 9))))
    return archive_of({name: header(draw(descrs), draw(shapes), version) + data})


@pytest.mark.parametrize("cases", [100, pytest.param(2000, marks=pytest.mark.faults)])
def test_whatever_the_bytes_an_archive_is_read_or_refused_in_bounded_memory(tmp_path, cases):
    path = tmp_path / "fuzzed.npz"

    @settings(max_examples=cases)
    @given(damaged() | lying() | st.binary(max_size=200))
    def check(content):
        path.write_bytes(content)
        tracemalloc.start()
        try:
            archive = load_archive(path)
        except DataError as error:
            assert str(path) in str(error)
        else:
            assert len(archive.events) == archive.offset[-1] and len(archive.label) == len(archive.offset) - 1
        finally:
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        assert peak < MEMORY

    check()


def understated():
    """An archive whose directory says that an entry of 2**30 bytes has 8."""
    content = archive_of({"t.npy": b"", "t": header("'<i8'", "(1, )") + bytes(2**27)})
    size = (len(header("'<i8'", "(1, )")) + 2**27).to_bytes(4, "little")
    assert content.count(size) == 2
    return content.replace(size, (len(header("'<i8'", "(1, )")) + 8).to_bytes(4, "little"))


BOMBS = {
    "claim to hold": archive_of({"t": header("'<i8'", f"({2**24}, )") + bytes(2**27)}),
    r"\(t: BadZipFile\)": understated(),
    r"\(x: ValueError\)": archive_of({}, zipfile.ZIP_LZMA),
    r"\(p: ValueError\)": archive_of({"p": header("'<i8'", f"({2**60}, )")}),
}


@pytest.mark.parametrize("says", BOMBS)
def test_a_small_file_gets_little_memory(tmp_path, says):
    (tmp_path / "bomb.npz").write_bytes(BOMBS[says])
    tracemalloc.start()
    with pytest.raises(DataError, match=says):
        load_archive(tmp_path / "bomb.npz")
    assert tracemalloc.get_traced_memory()[1] < MEMORY
    tracemalloc.stop()


def jpeg(width, height):
    """A gray JPEG that says it has this size."""
    file = io.BytesIO()
    PIL.Image.new("L", (8, 8)).save(file, "JPEG")
    small = struct.pack(">HH", 8, 8)
    assert file.getvalue().count(small) == 1
    return file.getvalue().replace(small, struct.pack(">HH", height, width))


@pytest.mark.parametrize("says, size, count", [("image 0: 333 bytes", 9000, 1), ("the images:", 4000, 1000)])
def test_small_jpegs_get_little_memory(tmp_path, says, size, count):
    one = np.frombuffer(jpeg(size, size), np.uint8)
    many = dict(jpeg=np.tile(one, count), offset=len(one) * np.arange(count + 1), label=np.zeros(count, int))
    np.savez(tmp_path / "images.npz", **many)
    with pytest.raises(DataError, match=says):
        load_images(tmp_path / "images.npz")


class Code:
    """What leaves a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return pathlib.Path.touch, (self.path,)


def test_archives_and_checkpoints_never_run_code(tmp_path):
    code = Code(tmp_path / "ran")
    pickle.loads(pickle.dumps(code))
    (tmp_path / "ran").unlink()
    np.savez(tmp_path / "a.npz", **{**ARRAYS, "label": np.array([code, code])})
    with pytest.raises(DataError, match=r"label: ValueError"):
        load_archive(tmp_path / "a.npz")
    torch.save({"state_dict": {"weight": code}}, tmp_path / "c.ckpt")
    with pytest.raises(CheckpointError, match="UnpicklingError"):
        read_checkpoint(tmp_path / "c.ckpt")
    with pytest.raises((CheckpointError, pickle.UnpicklingError)):
        SpikingClassifier.load_from_checkpoint(tmp_path / "c.ckpt")
    assert not (tmp_path / "ran").exists()


def test_a_packed_checkpoint_is_not_unpacked(tmp_path):
    torch.save({"state_dict": {"weight": torch.zeros(2**20)}}, tmp_path / "c.ckpt")
    with (
        zipfile.ZipFile(tmp_path / "c.ckpt") as whole,
        zipfile.ZipFile(tmp_path / "p.ckpt", "w", 8) as packed,
    ):
        for name in whole.namelist():
            packed.writestr(name, whole.read(name))
    read_checkpoint(tmp_path / "c.ckpt")
    with pytest.raises(CheckpointError, match="damaged or no checkpoint"):
        read_checkpoint(tmp_path / "p.ckpt")


CONFIGS = {
    "empty": b"",
    "binary": bytes(range(256)),
    "zeros": bytes(100),
    "list": b"- 1\n",
    "nested": b"[" * 1000,
    "code": b"model: !!python/object/apply:os.mkdir [ran]\n",
}


@pytest.mark.parametrize("content", CONFIGS.values(), ids=CONFIGS)
def test_a_hostile_configuration_is_one_line(tmp_path, content, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.yaml").write_bytes(content)
    with pytest.raises(SystemExit) as exit:
        main(["compare", "--config", "c.yaml"])
    told = capsys.readouterr().err
    assert exit.value.code == 2 and told.startswith("snn-async: error: ") and told.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["c.yaml"]
