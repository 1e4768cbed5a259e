"""What `snn-async compare` does, as one YAML holds it; checked before any work."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from pytorch_lightning.cli import LRSchedulerCallable, OptimizerCallable

from snn_async.errors import ConfigError

Method = Literal["layered", "random", "momentum"]
METHODS: tuple[Method, ...] = ("layered", "random", "momentum")
# Arguments of `snn_async.asynchronize` that a comparison chooses itself; `execution` holds the others.
CHOSEN: set[str | int] = {
    *("model", "example_inputs", "input_shape", "seed"),
    *("scheduler", "forward_group_size", "refractory_dropout", "stop"),
}


@dataclass(frozen=True)
class Training:
    """How each model is trained.

    Attributes:
        methods: "layered" (with the barrier), and unlayered with "random" or "momentum" scheduling.
        epochs: of the training data.
        optimizer, lr_scheduler: class_path and init_args of torch's (schedulers step once per epoch).
        loss: class_path and init_args of a callable loss(outputs, targets (B,)); if null as in `SpikingClassifier`.
        forward_group_size: F of unlayered training; null for all pending spikes.
        refractory_dropout: of unlayered training, 0..1.
        spike_penalty: weight of the mean number of hidden spikes per sample.
        warmup_layered_steps: number of first optimizer steps of unlayered training that are layered: a model with
            BatchNorm gets its running statistics there (see `SpikingClassifier`).
        select: keep the "last" epoch's weights, or those of the "best" validation accuracy under the
            training's own execution.
    """

    methods: Sequence[Method] = METHODS
    epochs: int = 20
    optimizer: OptimizerCallable = torch.optim.Adam
    lr_scheduler: LRSchedulerCallable | None = None
    loss: Callable[..., Any] | None = None
    forward_group_size: int | None = 8
    refractory_dropout: float = 0.0
    spike_penalty: float = 0.0
    warmup_layered_steps: int = 0
    select: Literal["last", "best"] = "last"


@dataclass(frozen=True)
class Evaluation:
    """How each model is evaluated on the test data.

    Attributes:
        executions: layered execution is evaluated once; the others with every combination of the next two.
        forward_group_sizes: F values; null for all pending spikes.
        stops: stop rules: "quiescent", "output", "output(k)".
        steps: additionally stop every timestep after so many forward steps, with the first of
            `forward_group_sizes`: the figure of accuracy against forward steps.
        seed: of the schedules.
    """

    executions: Sequence[Method] = METHODS
    forward_group_sizes: Sequence[int | None] = (8,)
    stops: Sequence[str] = ("quiescent", "output")
    steps: Sequence[int] = (1, 2, 4, 8, 16)
    seed: int = 0


@dataclass(frozen=True)
class CompareSettings:
    """One comparison.

    Attributes:
        model: "package.module:factory" returning an `nn.Module`; the current directory counts.
        model_args: its keyword arguments.
        seeds: one training of every method per seed: initial weights, data order, dropout and schedules.
        folds: cross-validation: fold i of the data with the i-th seed, so as many folds as seeds.
        batch_first: whether the data's x is (B, T, ...); it is turned to (T, B, ...) before the model gets it.
        training, evaluation: see there.
        execution: options of `snn_async.asynchronize`, but for `CHOSEN`, that training and evaluation share.
    """

    model: str = "lightning_modules:mlp"
    model_args: dict[str, Any] = field(default_factory=dict)
    seeds: Sequence[int] = (0, 1)
    folds: int | None = None
    batch_first: bool = False
    training: Training = field(default_factory=Training)
    execution: dict[str, Any] = field(default_factory=dict)
    evaluation: Evaluation = field(default_factory=Evaluation)

    def __post_init__(self) -> None:
        training, evaluation = self.training, self.evaluation
        _distinct("seeds", self.seeds)
        _distinct("training.methods", training.methods)
        _distinct("evaluation.executions", evaluation.executions)
        _distinct("evaluation.forward_group_sizes", evaluation.forward_group_sizes)
        _distinct("evaluation.stops", evaluation.stops)
        if training.epochs < 1:
            raise ConfigError(f"training.epochs: {training.epochs} must be at least 1")
        for seed in self.seeds:
            if not 0 <= seed < 2**63:
                raise ConfigError(f"seeds: {seed} must be between 0 and 2**63 - 1")
        if self.folds is not None and self.folds != len(self.seeds):
            raise ConfigError(
                f"folds: {self.folds} with {len(self.seeds)} seeds; fold i takes the i-th seed, so give as "
                "many seeds as folds"
            )

    def options(self, method: Method) -> dict[str, Any]:
        """Return the options of `snn_async.asynchronize` that all executions by a method share."""
        noise = {} if method == "momentum" else {"momentum_noise": 0.0}
        return self.execution | noise | {"scheduler": method}


def _distinct(name: str, values: Sequence[object]) -> None:
    if not values or len(set(values)) != len(values):
        raise ConfigError(f"{name}: {list(values)} must hold at least one value, each once")
