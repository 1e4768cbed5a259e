"""The asynchronous options that belong to a neuron, as a mixin for drop-in layers."""

from typing import Any

from snn_async.checks import check_refractory
from snn_async.errors import OptionError
from snn_async.neurons import Refractory


class RefractoryOptions:
    """Adds `refractory` and `refractory_dropout` to a framework's neuron; its dynamics stay as they are.

    Args:
        refractory: within a timestep, a neuron that spiked ignores later currents ("discard"), keeps them
            ("integrate"), or may spike again ("off"); None leaves it to `asynchronize`.
        refractory_dropout: probability, in training, that a spike leaves its neuron able to spike again; None
            leaves it to `asynchronize`.

    Raises:
        OptionError: for another mode, or a probability outside 0..1.
    """

    refractory: Refractory | None
    refractory_dropout: float | None

    def __init__(
        self,
        *args: Any,
        refractory: Refractory | None = None,
        refractory_dropout: float | None = None,
        **kwargs: Any,
    ) -> None:
        check_refractory(refractory, refractory_dropout, f"{type(self).__name__}: ")
        super().__init__(*args, **kwargs)
        self.refractory = refractory
        self.refractory_dropout = refractory_dropout

    def extra_repr(self) -> str:
        own = [super().extra_repr()]  # type: ignore[misc]
        own += [f"{name}={value!r}" for name, value in options_of(self).items() if value is not None]
        return ", ".join(part for part in own if part)


class WithoutSpikes:
    """The same for a neuron that only integrates: no value of `refractory` and `refractory_dropout` can apply.

    Raises:
        OptionError: for any value but None.
    """

    def __init__(
        self, *args: Any, refractory: None = None, refractory_dropout: None = None, **kwargs: Any
    ) -> None:
        for name, value in (("refractory", refractory), ("refractory_dropout", refractory_dropout)):
            if value is not None:
                raise OptionError(
                    f"{type(self).__name__}: {name}={value!r} has no effect, it never spikes; leave it out"
                )
        super().__init__(*args, **kwargs)


def dropin(kind: type, module: str, spikes: bool) -> type:
    """Return a framework's neuron class with these options, as a class of the same name that lives in `module`."""
    options: type = RefractoryOptions if spikes else WithoutSpikes
    has = "with `RefractoryOptions`" if spikes else "which never spikes and takes no option of a spike"
    text = f"{kind.__module__.split('.')[0]}'s `{kind.__name__}`, {has}."
    return type(kind.__name__, (options, kind), {"__module__": module, "__doc__": text})


def options_of(module: Any) -> dict[str, Any]:
    """Return `refractory` and `refractory_dropout` of a drop-in layer, nothing for any other module.

    Raises:
        OptionError: for values, set since construction, that are out of range.
    """
    if not isinstance(module, RefractoryOptions):
        return {}
    check_refractory(module.refractory, module.refractory_dropout, f"{type(module).__name__}: ")
    return {"refractory": module.refractory, "refractory_dropout": module.refractory_dropout}
