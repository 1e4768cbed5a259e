"""A convolutional network of snnTorch's neurons."""

from collections.abc import Sequence
from typing import Any, Literal

from torch import nn

from snn_async.errors import ConfigError


def conv_net(
    in_channels: int = 2,
    size: Sequence[int] = (34, 34),
    channels: Sequence[int] = (8, 16, 32),
    classes: int = 10,
    kernel_size: int = 3,
    pooling: Literal["stride", "max", "avg"] = "stride",
    batch_norm: bool = False,
    beta: float = 0.9,
    threshold: float = 1.0,
    reset_mechanism: Literal["subtract", "zero", "none"] = "subtract",
    reset_delay: bool = True,
    bias: bool = False,
) -> nn.Sequential:
    """Return Conv2d and `snntorch.Leaky` for every number in `channels`, then Flatten, Linear and `Leaky`.

    Args:
        in_channels, size: of one sample in one timestep, (C, H, W) = (in_channels, *size).
        kernel_size: odd, in pixels; convolutions are padded by half of it.
        pooling: how each convolution halves height and width (rounded up with "stride", else down): a stride of 2,
            or 2x2 pooling between a convolution of stride 1 and its neurons.
        batch_norm: whether a BatchNorm2d follows each convolution.
        beta, threshold, reset_mechanism, reset_delay, bias: as in `mlp`.

    Raises:
        ConfigError: for an unknown pooling, an even kernel, or an image too small to be halved that often.
    """
    import snntorch

    if pooling not in ("stride", "max", "avg"):
        raise ConfigError(f"pooling={pooling!r}: choose 'stride', 'max' or 'avg'")
    if kernel_size < 1 or kernel_size % 2 == 0:
        raise ConfigError(f"kernel_size={kernel_size}: give an odd number, such as 3")
    neuron: dict[str, Any] = {"beta": beta, "threshold": threshold, "init_hidden": True}
    neuron |= {"reset_mechanism": reset_mechanism, "reset_delay": reset_delay}
    layers: list[nn.Module] = []
    height, width = size
    for fan_in, fan_out in zip([in_channels, *channels], channels, strict=False):
        strided = pooling == "stride"
        padding = kernel_size // 2
        layers.append(nn.Conv2d(fan_in, fan_out, kernel_size, 1 + strided, padding, bias=bias))
        layers += [nn.BatchNorm2d(fan_out)] if batch_norm else []
        layers += [] if strided else [nn.MaxPool2d(2) if pooling == "max" else nn.AvgPool2d(2)]
        layers.append(snntorch.Leaky(**neuron))
        height, width = ((side + strided) // 2 for side in (height, width))
    if height < 1 or width < 1:
        raise ConfigError(
            f"size={list(size)} cannot be halved {len(channels)} times with pooling={pooling!r}; give fewer channels "
            "or larger images"
        )
    features = (channels[-1] if channels else in_channels) * height * width
    layers += [nn.Flatten(), nn.Linear(features, classes, bias=bias), snntorch.Leaky(**neuron)]
    return nn.Sequential(*layers)
