"""The README's table names every public neuron class of both packages, and says of each what the adapters do."""

import inspect
import re
from pathlib import Path

import pytest
import snntorch
from spikingjelly.activation_based import neuron
from torch import nn

from snn_async.frameworks import snntorch as snntorch_adapter
from snn_async.frameworks import spikingjelly as spikingjelly_adapter

README = Path(__file__).parent.parent / "README.md"
PACKAGES = {"snnTorch": (snntorch, snntorch_adapter), "SpikingJelly": (neuron, spikingjelly_adapter)}


def public_neurons(package):
    """Names of the neuron classes that a user of the package can construct or derive from."""
    return {
        name
        for name, cls in vars(package).items()
        if inspect.isclass(cls) and issubclass(cls, nn.Module) and not name.startswith("_")
    }


def table(package):
    """The README's rows of a package: class name -> (status, reason)."""
    rows = re.findall(rf"^\| {package} \| `(\w+)` \| (\w+) \| (.*?) \|$", README.read_text(), re.MULTILINE)
    assert len(rows) == len({name for name, *_ in rows})
    return {name: (status, reason) for name, status, reason in rows}


@pytest.mark.parametrize("package", PACKAGES)
def test_the_readme_lists_every_public_neuron_with_what_the_adapter_does(package):
    module, adapter = PACKAGES[package]
    rows = table(package)
    assert set(rows) == public_neurons(module)
    supported = {cls.__name__ for cls in adapter.SUPPORTED}
    assert {name for name, (status, _) in rows.items() if status == "supported"} == supported
    for name, (status, reason) in rows.items():
        if status == "refused":
            assert (adapter.REASONS | adapter.BASES)[name] == reason, name
        elif status != "supported":
            assert status == "layer" and not issubclass(getattr(module, name), snntorch.SpikingNeuron), name
