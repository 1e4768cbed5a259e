"""A disk without room: one line that names the file, nothing half-written, and the same results once there is room."""

import subprocess

import pytest
import torch

pytestmark = pytest.mark.faults


@pytest.fixture
def disk(tmp_path):
    """Return a function that mounts a disk of a size; skips where that is not allowed."""
    made = []

    def mount(size):
        folder = tmp_path / f"disk{len(made)}"
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
        if subprocess.run(command, capture_output=True).returncode:
            pytest.skip("mounting needs rights")
        made.append(folder)
        return folder

    yield mount
    for folder in made:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def grow(folder, size):
    subprocess.run(["mount", "-o", f"remount,size={size}", str(folder)], check=True)


def assert_one_line(code, told):
    assert code == 2 and "No space left" in told, told
    assert sum(line.startswith("snn-async: error: ") for line in told.splitlines()) == 1
    assert "Traceback" not in told


def test_a_comparison_on_a_full_disk_goes_on_when_there_is_room(start, comparison, disk, tmp_path):
    def compare(folder):
        return start("compare", "--config", comparison, "--output", folder).wait()

    assert compare(tmp_path / "whole")[0] == 0
    for room in ("8k", "24k", "60k", "100k", "140k"):  # from no room for a model to almost enough
        full = disk(room)
        assert_one_line(*compare(full / "out"))
        for path in full.rglob("models/*.ckpt"):
            torch.load(path, weights_only=True)
        grow(full, "10m")
        code, told = compare(full / "out")
        assert code == 0, told
        assert (full / "out/results.csv").read_text() == (tmp_path / "whole/results.csv").read_text()


@pytest.mark.parametrize("room", ["4k", "16k"])
def test_a_training_on_a_full_disk_is_one_line(start, fitting, disk, room):
    full = disk(room)
    assert_one_line(*start("fit", "--config", fitting, "--trainer.default_root_dir", full).wait())
    for path in full.rglob("*.ckpt"):
        torch.load(path, weights_only=True)
