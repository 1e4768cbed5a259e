"""Any other module as synapses: called as it is, after it has shown that currents of events add up in it."""

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from snn_async.capture.layers import Form, Operation, Shape, form_of
from snn_async.errors import InputError, UnsupportedModelError
from snn_async.graph.grids import Grid
from snn_async.graph.synapses import Opaque, Synapses

SAMPLES = 4


class Framewise(nn.Module):
    """A module that takes (T, N, ...), called with one timestep (N, ...)."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self.training = module.training

    def forward(self, x: Tensor) -> Tensor:
        return self.module(x.unsqueeze(0)).squeeze(0)


@dataclass(frozen=True)
class OpaqueLayer(Operation):
    """A module of which only its results are known.

    Attributes:
        framewise: whether it takes (T, N, ...) rather than (N, ...).
        reason: why it was not read, for messages.
    """

    module: nn.Module
    framewise: bool = False
    reason: str = field(default="", compare=False)

    def shape(self, form: Form) -> Shape:
        example = _like(self.module).new_zeros((1, *form.shape))
        return tuple(self._call(self._frames(), example).shape[1:])

    def form(self, form: Form) -> Form:
        result = form_of(self.shape(form))
        if result is None:
            raise UnsupportedModelError(
                f"{self.place}: it gives samples of shape {self.shape(form)}; only features, (C, L) and (C, H, W) "
                "can be numbered; rewrite the model without it"
            )
        return result

    def synapses(self, form: Form) -> Synapses:
        module = self._frames()
        self._check_affine(module, form)
        result: Grid = self.form(form).grid
        return Opaque(module, form.grid, result, form.shape, self.shape(form))

    def _frames(self) -> nn.Module:
        return Framewise(self.module) if self.framewise else self.module

    def _call(self, module: nn.Module, x: Tensor) -> Tensor:
        saved = [(name, buffer.clone()) for name, buffer in module.named_buffers()]
        try:
            with torch.no_grad(), torch.random.fork_rng(devices=()):
                before_call = torch.get_rng_state()
                result = module(x)
                drew = not torch.equal(before_call, torch.get_rng_state())
        except Exception as error:
            raise InputError(
                f"{self.place}: it fails on samples of shape {tuple(x.shape[1:])} ({type(error).__name__}: "
                f"{str(error).splitlines()[0]}); give the input another shape"
            ) from error
        buffers = dict(module.named_buffers())
        if any(not torch.equal(buffers[name], before) for name, before in saved):
            with torch.no_grad():
                for name, before in saved:
                    buffers[name].copy_(before)
            raise self._refused("it keeps a state")
        if drew:
            raise self._refused("it draws random numbers (a dropout: call model.eval())")
        if not isinstance(result, Tensor) or result.dim() < 2 or len(result) != len(x):
            raise self._refused("it does not give one tensor with a result per sample")
        return result

    def _check_affine(self, module: nn.Module, form: Form) -> None:
        """Probe it in double precision where it can be, else in its own."""
        like = _like(self.module)
        generator = torch.Generator().manual_seed(0)
        shape = (SAMPLES, *form.shape)
        a, b = (torch.randn(shape, generator=generator, dtype=torch.float64).to(like) for _ in range(2))
        of_a, of_b, of_sum, rest = (self._call(module, x) for x in (a, b, a + b, torch.zeros_like(a)))
        scale = 1 + max(float(value.abs().max()) for value in (of_a, of_b, of_sum, rest))
        tolerance = scale * (1e-9 if like.dtype == torch.float64 else 1e-3)
        if not torch.equal(of_a, self._call(module, a)):
            raise self._refused("it gives different results for the same input; call model.eval()")
        if float((of_a[:1] - self._call(module, a[:1])).abs().max()) > tolerance:
            raise self._refused("a sample's result depends on the other samples")
        if self.framewise:
            steps = [a, b, a + b, torch.zeros_like(a), a]
            together = self._call(self.module, torch.stack(steps))
            alone = torch.stack([of_a, of_b, of_sum, rest, of_a])
            if together.shape != alone.shape or float((together - alone).abs().max()) > tolerance:
                raise self._refused("a timestep's result depends on the other timesteps")
        if float((of_sum - of_a - of_b + rest).abs().max()) > tolerance:
            raise self._refused("it is not linear: currents of events must add up")

    def _refused(self, why: str) -> UnsupportedModelError:
        reason = f" (it was not read because of {self.reason})" if self.reason else ""
        return UnsupportedModelError(
            f"{self.place}: not supported, {why}; put it behind the network or use another{reason}"
        )


def _like(module: nn.Module) -> Tensor:
    """Return a tensor of the dtype and device that a module takes."""
    tensors = (*module.parameters(), *module.buffers(), torch.zeros(()))
    return next(tensor.detach() for tensor in tensors if tensor.is_floating_point())
