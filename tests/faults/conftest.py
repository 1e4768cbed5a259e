"""Commands that start at once and can be killed: a process that has imported everything forks one for each."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

TESTS = Path(__file__).parents[1]
NURSERY = """
import json, os, resource, sys, traceback
import snntorch, torch, tiny_data, snn_async
import lightning_modules.compare.run, lightning_modules.cli.lightning_command
from torch.utils import tensorboard
from lightning_modules.cli import main

with torch.no_grad():  # a process whose autograd has worked cannot be forked
    snn_async.asynchronize(tiny_data.make_net())(torch.ones(4, 16, 12))
for line in sys.stdin:
    request = json.loads(line)
    if "wait" in request:
        answer = os.waitstatus_to_exitcode(os.waitpid(request["wait"], 0)[1])
    else:
        answer = os.fork()
    if answer == 0 and "wait" not in request:
        log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(log, 1), os.dup2(log, 2)
        if request["largest_file"]:
            resource.setrlimit(resource.RLIMIT_FSIZE, (request["largest_file"],) * 2)
        code = 0
        try:
            main(request["arguments"])
        except SystemExit as error:
            code = error.code or 0
        except BaseException:
            traceback.print_exc()
            code = 99
        sys.stdout.flush(), sys.stderr.flush()
        os._exit(code)
    print(answer, flush=True)
"""


class Command:
    """A running `snn-async` command."""

    def __init__(self, ask, arguments, log, largest_file=None):
        self._ask, self._log = ask, log
        self.pid = ask(arguments=list(map(str, arguments)), log=str(log), largest_file=largest_file)

    def wait(self):
        """Return its exit code, negative for a signal, and what it wrote."""
        return self._ask(wait=self.pid), self._log.read_text()


@pytest.fixture(scope="session")
def nursery():
    places = (str(TESTS), str(TESTS.parent), os.environ.get("PYTHONPATH", ""))
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(places), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", NURSERY]
    pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with subprocess.Popen(command, env=environment, **pipes) as process:

        def ask(**request):
            process.stdin.write(json.dumps(request) + "\n")
            process.stdin.flush()
            return int(process.stdout.readline())

        yield ask
        process.stdin.close()


@pytest.fixture
def start(nursery, tmp_path):
    """Return a function that starts `snn-async` with arguments."""
    count = iter(range(1000))
    return lambda *arguments, **limits: Command(nursery, arguments, tmp_path / f"log{next(count)}", **limits)


@pytest.fixture
def comparison(tmp_path):
    """A YAML of a comparison that takes a second or two."""
    values = {
        "model": "tiny_data:make_net",
        "model_args": {"width": 6},
        "data": {"class_path": "tiny_data.TinyEvents"},
        "seeds": [0, 1],
        "training": {"methods": ["layered", "random"], "epochs": 2, "refractory_dropout": 0.5},
        "evaluation": {"executions": ["layered", "random"], "stops": ["quiescent"], "steps": [1]},
    }
    path = tmp_path / "compare.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


@pytest.fixture
def fitting(tmp_path):
    """A YAML of a training of five epochs."""
    values = {
        "seed_everything": 1,
        "trainer": {"max_epochs": 5, "enable_progress_bar": False},
        "model": {"network": "tiny_data:make_net", "forward_group_size": 2, "refractory_dropout": 0.5},
        "data": {"class_path": "tiny_data.TinyEvents"},
    }
    path = tmp_path / "fit.yaml"
    path.write_text(yaml.safe_dump(values))
    return path
