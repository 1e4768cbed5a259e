"""`kill -9` at any moment, and two at once: what is resumed ends in the same results, bit by bit."""

import os
import random
import signal
import time

import pytest
import torch

pytestmark = pytest.mark.faults
MOMENTS = 20


def contents(folder):
    """Results and models of a comparison."""
    models = {
        path.name: torch.load(path, weights_only=True)["state_dict"] for path in folder.glob("models/*.ckpt")
    }
    assert len(models) == 4
    assert {path.name for path in folder.rglob(".*")} <= {".lock"}, "a half-written file stays behind"
    return (folder / "results.csv").read_text(), models


def same(one, two):
    return one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)


def timed(command):
    begin = time.monotonic()
    code, told = command.wait()
    assert code == 0, told
    return time.monotonic() - begin


def killed(command, after):
    time.sleep(after)
    os.kill(command.pid, signal.SIGKILL)
    return command.wait()[0] == -signal.SIGKILL


def test_a_killed_comparison_resumes_to_the_same_results(start, comparison, tmp_path):
    def compare(output):
        return start("compare", "--config", comparison, "--output", output)

    takes = timed(compare(tmp_path / "whole"))
    results, models = contents(tmp_path / "whole")
    moments = random.Random(0)
    for i in range(MOMENTS):
        folder = tmp_path / f"killed{i}"
        killed(compare(folder), moments.uniform(0, takes))
        timed(compare(folder))
        resumed, again = contents(folder)
        assert resumed == results
        assert all(same(models[name], again[name]) for name in models)


def test_a_killed_training_resumes_to_the_same_weights(start, fitting, tmp_path):
    def fit(folder, *options):
        return start("fit", "--config", fitting, "--trainer.default_root_dir", folder, *options)

    def checkpoints(folder):
        return sorted(folder.rglob("*.ckpt"), key=lambda path: path.stat().st_mtime)

    takes = timed(fit(tmp_path / "whole"))
    whole = torch.load(checkpoints(tmp_path / "whole")[-1], weights_only=True)
    moments = random.Random(1)
    for i in range(MOMENTS):
        folder = tmp_path / f"killed{i}"
        killed(fit(folder), moments.uniform(0, takes))
        found = checkpoints(folder)
        timed(fit(folder, *(["--ckpt_path", found[-1]] if found else [])))
        resumed = torch.load(checkpoints(folder)[-1], weights_only=True)
        assert same(whole["state_dict"], resumed["state_dict"]) and resumed["epoch"] == whole["epoch"] == 4


def test_two_comparisons_in_one_folder_take_turns(start, comparison, tmp_path):
    folder = tmp_path / "out"
    ends = [
        command.wait()
        for command in [start("compare", "--config", comparison, "--output", folder) for _ in "ab"]
    ]
    for code, told in ends:
        assert code == 0 or (code == 2 and "another process is at work" in told)
    timed(start("compare", "--config", comparison, "--output", tmp_path / "alone"))
    results, models = contents(folder)
    alone, again = contents(tmp_path / "alone")
    assert results == alone and all(same(models[name], again[name]) for name in models)
