"""Every public neuron class of both packages runs, or the README's table says why not, as the adapters do."""

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
LAYERS = {"GradedSpikes"}  # without dynamics


def public_neurons(package):
    """Names of the neuron classes that a user of the package can construct or derive from."""
    return {
        name
        for name, cls in vars(package).items()
        if inspect.isclass(cls) and issubclass(cls, nn.Module) and not name.startswith("_")
    } - LAYERS


def refused(package):
    """The README's rows of a package: class name -> reason."""
    rows = re.findall(rf"^\| {package} \| (`.*`) \| (.*?) \|$", README.read_text(), re.MULTILINE)
    named = [(name, reason) for names, reason in rows for name in re.findall(r"`(\w+)`", names)]
    assert len(named) == len(dict(named))
    return dict(named)


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_neuron_runs_or_is_listed_with_the_reason(package):
    module, adapter = PACKAGES[package]
    rows, supported = refused(package), {cls.__name__ for cls in adapter.SUPPORTED}  # built in test_dropin.py
    assert rows == adapter.REASONS | adapter.BASES
    assert not rows.keys() & supported
    assert rows.keys() | supported == public_neurons(module)
