"""Network factories that configurations name; those that need SpikingJelly to be imported: `models.sew_resnet`."""

from lightning_modules.models.convolutional import conv_net
from lightning_modules.models.fully_connected import mlp

__all__ = ["conv_net", "mlp"]
