"""Network factories that configurations name; those that need SpikingJelly to be imported: `models.sew_resnet`."""

from .convolutional import conv_net
from .fully_connected import mlp

__all__ = ["conv_net", "mlp"]
