"""The project's own exceptions: each message names the value, the place and the way out."""


class SnnAsyncError(Exception):
    """Base of every error that snn-async raises on purpose."""


class InputError(SnnAsyncError, ValueError):
    """An input, state or sample-id tensor that cannot be run."""


class OptionError(SnnAsyncError, ValueError):
    """An execution option outside its range, or an unknown name."""


class UnsupportedModelError(SnnAsyncError, TypeError):
    """A model, module or neuron parameter that cannot be mapped exactly."""


class UnsupportedByEngineError(SnnAsyncError, NotImplementedError):
    """A graph or option that the chosen engine cannot run (another one can)."""


class RunawayError(SnnAsyncError, RuntimeError):
    """A timestep that did not end within `max_forward_steps`."""


class GradientError(SnnAsyncError, ArithmeticError):
    """A gradient that is not finite, or does not exist."""


class CheckpointError(SnnAsyncError, ValueError):
    """A checkpoint made for another architecture."""


class DataError(SnnAsyncError, ValueError):
    """An event file or array that is damaged, incomplete or out of range."""


class ConfigError(SnnAsyncError, ValueError):
    """A configuration that cannot be run, or an output place that cannot be written."""
