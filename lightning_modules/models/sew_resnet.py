"""SpikingJelly's spike-element-wise ResNet (Fang et al., NeurIPS 2021) for small images."""

from collections.abc import Sequence
from typing import Any, Literal

from spikingjelly.activation_based import functional, layer, neuron, surrogate
from spikingjelly.activation_based.model.sew_resnet import BasicBlock, SEWResNet, conv3x3
from spikingjelly.activation_based.model.sew_resnet import sew_resnet18 as published
from torch import Tensor, nn

from snn_async.errors import ConfigError

NEURONS = {"IF": neuron.IFNode, "LIF": neuron.LIFNode, "PLIF": neuron.ParametricLIFNode}
CNF = ("ADD", "AND", "IAND")


class SmallSEWResNet(SEWResNet):
    """`SEWResNet` with a 3x3 stem without pooling, and stages of any number and width.

    Multi-step: (T, N, C, H, W) to potentials (T, N, classes). Stages are made by SEWResNet itself; every stage
    but the first halves height and width. Arguments: see `sew_resnet`; `neuron_options` go to every neuron.
    """

    def __init__(
        self,
        in_channels: int,
        channels: Sequence[int],
        blocks: Sequence[int],
        classes: int,
        cnf: str,
        stem_stride: int,
        spiking_neuron: type[nn.Module],
        **neuron_options: Any,
    ) -> None:
        nn.Module.__init__(self)  # SEWResNet's own makes four stages of 64 to 512 channels
        self._norm_layer = layer.BatchNorm2d
        self.inplanes, self.dilation, self.groups, self.base_width = channels[0], 1, 1, 64
        self.conv1 = conv3x3(in_channels, channels[0], stem_stride)
        self.bn1 = layer.BatchNorm2d(channels[0])
        self.sn1 = spiking_neuron(**neuron_options)
        stages = [
            self._make_layer(
                BasicBlock,
                width,
                count,
                1 + (i > 0),
                cnf=cnf,
                spiking_neuron=spiking_neuron,
                **neuron_options,
            )
            for i, (width, count) in enumerate(zip(channels, blocks, strict=True))
        ]
        self.stages = nn.Sequential(*stages)
        self.avgpool = layer.AdaptiveAvgPool2d((1, 1))
        self.flatten = layer.Flatten()
        self.fc = layer.Linear(channels[-1], classes)
        for module in self.modules():
            if isinstance(module, layer.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        functional.set_step_mode(self, "m")

    def forward(self, x: Tensor) -> Tensor:
        x = self.stages(self.sn1(self.bn1(self.conv1(x))))
        return self.fc(self.flatten(self.avgpool(x)))


def sew_resnet(
    in_channels: int = 3,
    channels: Sequence[int] = (16, 32, 64),
    blocks: int | Sequence[int] = 1,
    classes: int = 10,
    cnf: Literal["ADD", "AND", "IAND"] = "ADD",
    neuron: Literal["IF", "LIF", "PLIF"] = "IF",
    tau: float = 2.0,
    v_threshold: float = 1.0,
    v_reset: float | None = 0.0,
    detach_reset: bool = True,
    surrogate_alpha: float = 2.0,
    stem_stride: int = 1,
) -> SmallSEWResNet:
    """Return a network of a 3x3 convolution, stages of SpikingJelly's `BasicBlock`, average pooling and a Linear.

    Args:
        in_channels: C of one sample.
        channels: of each stage.
        blocks: in each stage, or one number for all.
        cnf: how a block joins its two branches.
        neuron: `IFNode`, `LIFNode` or `ParametricLIFNode`, with surrogate ATan(surrogate_alpha).
        tau: time constant of "LIF", initial one of "PLIF", in timesteps.
        v_threshold, v_reset, detach_reset: as in SpikingJelly; v_reset None resets by subtraction.
        stem_stride: of the first convolution.

    Raises:
        ConfigError: for an unknown cnf or neuron, or blocks that do not fit the stages.
    """
    if cnf not in CNF:
        raise ConfigError(f"cnf={cnf!r} is unknown; choose one of {list(CNF)}")
    if neuron not in NEURONS:
        raise ConfigError(f"neuron={neuron!r} is unknown; choose one of {list(NEURONS)}")
    counts = [blocks] * len(channels) if isinstance(blocks, int) else list(blocks)
    if not channels or len(counts) != len(channels) or min(counts) < 1:
        raise ConfigError(
            f"blocks={blocks} with channels={list(channels)}: give at least one block for each of at least one stage"
        )
    time_constant = {"IF": {}, "LIF": {"tau": tau}, "PLIF": {"init_tau": tau}}[neuron]
    return SmallSEWResNet(
        in_channels,
        channels,
        counts,
        classes,
        cnf,
        stem_stride,
        NEURONS[neuron],
        v_threshold=v_threshold,
        v_reset=v_reset,
        detach_reset=detach_reset,
        surrogate_function=surrogate.ATan(alpha=surrogate_alpha),
        **time_constant,
    )


def sew_resnet18(
    classes: int = 10, cnf: Literal["ADD", "AND", "IAND"] = "ADD", zero_init_residual: bool = False
) -> SEWResNet:
    """Return SpikingJelly's own SEW-ResNet-18 (7x7 stem with stride 2, max pooling) with IF neurons, multi-step.

    Raises:
        ConfigError: for an unknown cnf.
    """
    if cnf not in CNF:
        raise ConfigError(f"cnf={cnf!r} is unknown; choose one of {list(CNF)}")
    model = published(
        cnf=cnf,
        spiking_neuron=neuron.IFNode,
        num_classes=classes,
        zero_init_residual=zero_init_residual,
        detach_reset=True,
        surrogate_function=surrogate.ATan(),
    )
    functional.set_step_mode(model, "m")
    return model
