"""Small models in the styles in which public code writes them; nothing here thinks of what a capture can take."""

from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Literal

import pytorch_lightning as pl
import snntorch as snn
import torch
import torch.nn.functional as F
from networks import ATan
from snntorch import spikegen, utils
from spikingjelly.activation_based import encoding, functional, layer, neuron, surrogate
from spikingjelly.activation_based.model import (
    maxformer,
    ms_resnet,
    qkformer,
    sew_resnet,
    spike_driven_transformer,
    spikformer,
    spiking_resnet,
    spiking_vgg,
)
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune

T, B = 4, 2
num_steps = T
spike_grad = ATan.apply  # snnTorch's own return single precision, whatever the precision of the model
HIDE: dict[str, Any] = dict(beta=0.8, spike_grad=spike_grad, init_hidden=True)


@dataclass(frozen=True)
class Written:
    """A model as its authors would write it, and a call of it.

    Attributes:
        make: builds the model.
        call: gives the arguments of the call, `args` and `kwargs`.
        time: "inside": the model gets the whole sequence; "outside": its forward is one timestep.
        states: of a model that gets its states and returns them: from what it returned to what it gets next.
        rest: the states with which its authors begin, if it cannot be called without.
        refused: what the error must say, if it cannot have a meaning here.
        optional: it may be refused.
        group: how many events are delivered at once, for large ones all.
    """

    make: Callable[[], nn.Module]
    call: Callable[[], tuple[tuple[Tensor, ...], dict[str, Any]]]
    time: Literal["inside", "outside"] = "inside"
    states: Callable[[Any], tuple[Any, ...]] | None = None
    rest: Callable[[Any], tuple[Any, ...]] = lambda model: ()
    refused: str | None = None
    optional: bool = False
    group: int | None = 4

    def build(self) -> tuple[nn.Module, tuple[Tensor, ...], dict[str, Any]]:
        """Return the model (float64, evaluation mode, its neurons neither silent nor saturated), args, kwargs."""
        torch.manual_seed(1)
        args, kwargs = self.call()
        model = self.make().double().eval()
        with torch.no_grad():
            for p in model.parameters():
                if p.ndim > 1:
                    p.mul_(2).add_(0.6 / p[0].numel())
            for module in model.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.running_mean.uniform_(-0.2, 0.2)
                    module.running_var.uniform_(0.5, 1.5)
                    module.weight.uniform_(0.7, 1.3)
                    module.bias.uniform_(-0.1, 0.3)
            self._awaken(model, args, kwargs)
        return model, args, kwargs

    def _awaken(self, model: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Any]) -> None:
        """Set every threshold by the currents that its neurons get first."""
        seen = set()

        def set_threshold(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            if module in seen:
                return
            seen.add(module)
            level = max(float(inputs[0].quantile(0.75)) * 1.0137, 0.05)
            if isinstance(module, snn.SpikingNeuron):
                module.threshold.fill_(level)
            else:
                module.v_threshold = 0.7 * level  # most of them leak their input, too

        hooks = [m.register_forward_pre_hook(set_threshold) for m in spiking(model).values()]
        torch.manual_seed(2)
        self.reference(model, args, kwargs)
        for hook in hooks:
            hook.remove()
        reset(model)

    def reference(self, model: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Any]) -> Any:
        """Return what the model itself gives from reset state, stacked over the timesteps if time is outside."""
        reset(model)
        if self.time == "inside":
            return model(*args, **kwargs)
        results, states = [], self.rest(model)
        for frames in zip(*args, strict=True):
            results.append(model(*frames, *states, **kwargs))
            if self.states is not None:
                states = self.states(results[-1])
        return torch.utils._pytree.tree_map(lambda *values: torch.stack(values), *results)


def reset(model: nn.Module) -> None:
    """Reset every neuron, of both frameworks."""
    functional.reset_net(model)
    for module in model.modules():
        if isinstance(module, snn.SpikingNeuron):
            module.reset_mem()


def spiking(model: nn.Module) -> dict[str, nn.Module]:
    """Return the neurons that are meant to spike, by name."""

    def spikes(module: nn.Module) -> bool:
        if isinstance(module, snn.SpikingNeuron):
            return module.reset_mechanism != "none"
        return isinstance(module, (neuron.BaseNode, neuron.SimpleBaseNode)) and module.v_threshold < float(
            "inf"
        )

    return {name: module for name, module in model.named_modules() if spikes(module)}


MODELS: dict[str, Written] = {}


def written(*inputs: Callable[[], Tensor], time: Any = "inside", **how: Any) -> Callable[[Any], Any]:
    """Collect a model; `inputs` draw its arguments, `how` are `Written`'s attributes and keyword arguments."""
    own = {name: how.pop(name) for name in list(how) if name in Written.__dataclass_fields__}

    def collect(make: Any) -> Any:
        MODELS[make.__name__] = Written(make, lambda: (tuple(x() for x in inputs), how), time, **own)
        return make

    return collect


def events(*shape: int, rate: float = 0.4) -> Callable[[], Tensor]:
    """Binary frames."""
    return lambda: (torch.rand(shape) < rate).double()


def analog(*shape: int) -> Callable[[], Tensor]:
    """Values in [0, 1)."""
    return lambda: torch.rand(shape, dtype=torch.float64)


# ---------------------------------------------------------------------------------------------- snnTorch, dense


@written(analog(B, 6))
class TutorialNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1 = nn.Linear(6, 10)
        self.lif1 = snn.Leaky(beta=0.95, spike_grad=spike_grad)
        self.fc2 = nn.Linear(10, 4)
        self.lif2 = snn.Leaky(beta=0.95, spike_grad=spike_grad)

    def forward(self, x):
        mem1 = self.lif1.init_leaky()
        mem2 = self.lif2.init_leaky()
        spk2_rec = []
        mem2_rec = []
        for _ in range(num_steps):
            cur1 = self.fc1(x)
            spk1, mem1 = self.lif1(cur1, mem1)
            cur2 = self.fc2(spk1)
            spk2, mem2 = self.lif2(cur2, mem2)
            spk2_rec.append(spk2)
            mem2_rec.append(mem2)
        return torch.stack(spk2_rec, dim=0), torch.stack(mem2_rec, dim=0)


@written(events(5, B, 1, 3, 3))
class TimeFirst(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1 = nn.Linear(9, 8)
        self.lif1 = snn.Leaky(beta=0.9, spike_grad=spike_grad, learn_beta=True, learn_threshold=True)
        self.fc2 = nn.Linear(8, 3)
        self.lif2 = snn.Leaky(beta=0.9, spike_grad=spike_grad, reset_mechanism="zero")

    def forward(self, x):
        mem1 = self.lif1.init_leaky()
        mem2 = self.lif2.init_leaky()
        spk_rec = []
        num_steps = x.size(0)
        for step in range(num_steps):
            cur1 = self.fc1(x[step].view(x[step].size(0), -1))
            spk1, mem1 = self.lif1(cur1, mem1)
            spk2, mem2 = self.lif2(self.fc2(spk1), mem2)
            spk_rec.append(spk2)
        return torch.stack(spk_rec)


@written(events(B, 5, 7))
class BatchFirst(nn.Module):
    def __init__(self, hidden=(9, 8), classes=3):
        super().__init__()
        self.fc1 = nn.Linear(7, hidden[0])
        self.lif1 = snn.Leaky(beta=0.7, spike_grad=spike_grad)
        self.fc2 = nn.Linear(hidden[0], hidden[1], bias=False)
        self.lif2 = snn.Leaky(beta=0.7, spike_grad=spike_grad)
        self.fc3 = nn.Linear(hidden[1], classes)
        self.lif3 = snn.Leaky(beta=0.7, spike_grad=spike_grad)

    def forward(self, x):
        B, T, _ = x.shape
        mem1, mem2, mem3 = (lif.init_leaky() for lif in (self.lif1, self.lif2, self.lif3))
        outputs = []
        for t in range(T):
            x_t = x[:, t, :]
            spk1, mem1 = self.lif1(self.fc1(x_t), mem1)
            spk2, mem2 = self.lif2(self.fc2(spk1), mem2)
            spk3, mem3 = self.lif3(self.fc3(spk2), mem3)
            outputs.append(spk3)
        outputs = torch.stack(outputs, dim=1)
        return outputs.sum(dim=1) / T


@written(events(B, 3, 4, 5))
class TimeLast(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1 = nn.Linear(12, 9)
        self.lif1 = snn.Lapicque(R=5.1, C=1, time_step=1, spike_grad=spike_grad)
        self.fc2 = nn.Linear(9, 2)
        self.lif2 = snn.Lapicque(R=5.1, C=1, time_step=1, spike_grad=spike_grad)

    def forward(self, x):
        mem1, mem2 = self.lif1.init_lapicque(), self.lif2.init_lapicque()
        spikes = 0
        for step in range(x.shape[-1]):
            x_t = x[..., step].reshape(x.size(0), -1)
            spk1, mem1 = self.lif1(self.fc1(x_t), mem1)
            spk2, mem2 = self.lif2(self.fc2(spk1), mem2)
            spikes += spk2
        return spikes


@written(analog(B, 5), num_steps=3)
class StepsAsArgument(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1 = nn.Linear(5, 8)
        self.lif1 = snn.Leaky(beta=0.9, spike_grad=spike_grad)
        self.fc2 = nn.Linear(8, 4)
        self.lif2 = snn.Leaky(beta=0.9, spike_grad=spike_grad)

    def forward(self, x, num_steps=25):
        rec = {"spk": [], "mem": [], "hidden": []}
        mem1, mem2 = self.lif1.init_leaky(), self.lif2.init_leaky()
        for _ in range(num_steps):
            spk1, mem1 = self.lif1(self.fc1(x), mem1)
            spk2, mem2 = self.lif2(self.fc2(spk1), mem2)
            rec["spk"].append(spk2)
            rec["mem"].append(mem2)
            rec["hidden"].append(spk1)
        return {name: torch.stack(values) for name, values in rec.items()}


@written(analog(B, 4))
class Regression(nn.Module):
    def __init__(self, in_dim=4, hidden=9, out_dim=1, steps=5):
        super().__init__()
        self.steps = steps
        self.fc1 = nn.Linear(in_dim, hidden)
        self.lif1 = snn.Leaky(beta=0.9, spike_grad=spike_grad)
        self.fc2 = nn.Linear(hidden, hidden)
        self.lif2 = snn.Leaky(beta=torch.rand(hidden), learn_beta=True, spike_grad=spike_grad)
        self.fc_out = nn.Linear(hidden, out_dim)
        self.lif_out = snn.Leaky(beta=0.9, spike_grad=spike_grad, reset_mechanism="none")

    def forward(self, x):
        mem1 = self.lif1.init_leaky()
        mem2 = self.lif2.init_leaky()
        memo = self.lif_out.init_leaky()
        rec = []
        for _ in range(self.steps):
            spk1, mem1 = self.lif1(self.fc1(x), mem1)
            spk2, mem2 = self.lif2(self.fc2(spk1), mem2)
            _, memo = self.lif_out(self.fc_out(spk2), memo)
            rec.append(memo)
        return torch.stack(rec, 0).mean(0)


@written(analog(B, 4))
class ContinuousControl(nn.Module):
    def __init__(self, obs_dim=4, act_dim=2, hidden=8, steps=4):
        super().__init__()
        self.steps = steps
        self.fc1 = nn.Linear(obs_dim, hidden)
        self.lif1 = snn.Leaky(beta=0.9, spike_grad=spike_grad)
        self.fc2 = nn.Linear(hidden, act_dim)
        self.lif2 = snn.Leaky(beta=0.9, spike_grad=spike_grad, reset_mechanism="none")
        self.log_std = nn.Parameter(torch.zeros(act_dim))

    def forward(self, obs):
        mem1, mem2 = self.lif1.init_leaky(), self.lif2.init_leaky()
        acc = 0.0
        for _ in range(self.steps):
            spk1, mem1 = self.lif1(self.fc1(obs), mem1)
            _, mem2 = self.lif2(self.fc2(spk1), mem2)
            acc = acc + mem2
        mean = 0.3 * torch.tanh(acc / self.steps)
        return mean, self.log_std.exp().expand_as(mean)


@written(analog(B, 4))
class QNetworkMaxMembrane(nn.Module):
    def __init__(self):
        super().__init__()
        self.num_steps = 4
        self.l1 = nn.Linear(4, 10)
        self.lif1 = snn.Leaky(beta=0.8, spike_grad=spike_grad, reset_delay=False)
        self.l2 = nn.Linear(10, 2)
        self.readout = snn.Leaky(beta=0.8, spike_grad=spike_grad, reset_mechanism="none")

    def forward(self, state):
        if state.ndim == 1:
            state = state.unsqueeze(0)
        mem, out = self.lif1.init_leaky(), self.readout.init_leaky()
        outs = []
        for _ in range(self.num_steps):
            spk, mem = self.lif1(self.l1(state), mem)
            _, out = self.readout(self.l2(spk), out)
            outs.append(out)
        return torch.stack(outs, dim=0).max(dim=0).values


@written(events(T, B, 6))
class SecondOrder(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1 = nn.Linear(6, 9)
        self.lif1 = snn.Synaptic(alpha=0.6, beta=0.7, spike_grad=spike_grad)
        self.fc2 = nn.Linear(9, 3)
        self.lif2 = snn.Synaptic(alpha=0.6, beta=0.7, spike_grad=spike_grad)

    def forward(self, x):
        syn1, mem1 = self.lif1.init_synaptic()
        syn2, mem2 = self.lif2.init_synaptic()
        spk2_rec, syn2_rec, mem2_rec = [], [], []
        for i, frame in enumerate(x):
            spk1, syn1, mem1 = self.lif1(self.fc1(frame), syn1, mem1)
            spk2, syn2, mem2 = self.lif2(self.fc2(spk1), syn2, mem2)
            if i >= 1:
                spk2_rec.append(spk2)
                syn2_rec.append(syn2)
                mem2_rec.append(mem2)
        return torch.stack(spk2_rec), torch.stack(syn2_rec), torch.stack(mem2_rec)


@written(events(5, B, 8))
class SpokenDigits(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc_in = nn.Linear(8, 10, bias=False)
        self.lif = snn.RSynaptic(alpha=0.5, beta=0.8, linear_features=10, spike_grad=spike_grad)
        self.readout = nn.Linear(10, 4, bias=False)

    def forward(self, x):
        spk = torch.zeros(x.shape[1], 10, device=x.device)
        syn = torch.zeros_like(spk)
        mem = torch.zeros_like(spk)
        counts = torch.zeros_like(spk)
        for t in range(x.shape[0]):
            spk, syn, mem = self.lif(self.fc_in(x[t]), spk, syn, mem)
            counts = counts + spk
        return self.readout(counts / x.shape[0])


@written(events(6, B, 6))
class AlphaNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1 = nn.Linear(6, 9)
        self.lif1 = snn.Alpha(alpha=0.8, beta=0.6, spike_grad=spike_grad, reset_mechanism="zero")
        self.fc2 = nn.Linear(9, 3)

    def forward(self, x):
        syn_exc, syn_inh, mem = self.lif1.init_alpha()
        logits = []
        for t in range(x.size(0)):
            spk, syn_exc, syn_inh, mem = self.lif1(self.fc1(x[t]), syn_exc, syn_inh, mem)
            logits.append(self.fc2(spk))
        return torch.stack(logits).mean(0)


@written(events(B, 4, 6))
class KeywordSpotting(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1 = nn.Linear(6, 8)
        self.rlif1 = snn.RLeaky(beta=0.8, linear_features=8, spike_grad=spike_grad)
        self.fc2 = nn.Linear(8, 6)
        self.rlif2 = snn.RLeaky(beta=0.8, all_to_all=False, V=0.5, spike_grad=spike_grad)
        self.norm = nn.LayerNorm(6)
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        x = x.transpose(0, 1)
        spk1, mem1 = self.rlif1.init_rleaky()
        spk2, mem2 = self.rlif2.init_rleaky()
        spk2_rec = []
        for frame in x:
            spk1, mem1 = self.rlif1(self.fc1(frame), spk1, mem1)
            spk2, mem2 = self.rlif2(self.fc2(spk1), spk2, mem2)
            spk2_rec.append(spk2)
        return F.log_softmax(self.head(self.norm(torch.stack(spk2_rec).mean(0))), dim=-1)


@written(events(T, B, 2, 6, 6))
class SequentialInside(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(2, 3, 3),
            snn.Leaky(**HIDE),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(12, 4),
            snn.Leaky(**HIDE, output=True),
        )

    def forward(self, data):
        spk_rec = []
        mem_rec = []
        utils.reset(self.net)
        for step in range(data.size(0)):
            spk_out, mem_out = self.net(data[step])
            spk_rec.append(spk_out)
            mem_rec.append(mem_out)
        return torch.stack(spk_rec), torch.stack(mem_rec)


@written(events(T, B, 2, 6, 6), time="outside")
def sequential_outside():
    return nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1, padding_mode="circular"),
        nn.BatchNorm2d(3),
        nn.MaxPool2d(2),
        snn.Leaky(**HIDE),
        nn.Dropout(0.3),
        nn.Flatten(),
        nn.Linear(27, 4),
        snn.Leaky(**HIDE, output=True),
    )


@written(analog(B, 1, 6, 6))
class ConvolutionalTutorial(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 3, 3, padding=1)
        self.lif1 = snn.Leaky(beta=0.9, spike_grad=spike_grad)
        self.conv2 = nn.Conv2d(3, 4, 3, padding=1)
        self.lif2 = snn.Leaky(beta=0.9, spike_grad=spike_grad)
        self.fc1 = nn.Linear(4, 3)
        self.lif3 = snn.Leaky(beta=0.9, spike_grad=spike_grad)

    def forward(self, x):
        batch_size = x.size(0)
        mem1, mem2, mem3 = self.lif1.init_leaky(), self.lif2.init_leaky(), self.lif3.init_leaky()
        spk3_rec, mem3_rec = [], []
        for _ in range(num_steps):
            cur1 = F.max_pool2d(self.conv1(x), 2)
            spk1, mem1 = self.lif1(cur1, mem1)
            cur2 = F.max_pool2d(self.conv2(spk1), 2)
            spk2, mem2 = self.lif2(cur2, mem2)
            cur3 = self.fc1(spk2.view(batch_size, -1))
            spk3, mem3 = self.lif3(cur3, mem3)
            spk3_rec.append(spk3)
            mem3_rec.append(mem3)
        return torch.stack(spk3_rec), torch.stack(mem3_rec)


@written(analog(B, 1, 6, 6))
class Autoencoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(1, 3, 3, padding=1, stride=2),
            nn.BatchNorm2d(3),
            snn.Leaky(**HIDE),
            nn.Flatten(1, 3),
            nn.Linear(27, 5),
            snn.Leaky(**HIDE, output=True),
        )
        self.linearNet = nn.Sequential(nn.Linear(5, 27), snn.Leaky(**HIDE, output=True))
        self.decoder = nn.Sequential(
            nn.Unflatten(1, (3, 3, 3)),
            snn.Leaky(**HIDE),
            nn.ConvTranspose2d(3, 1, 3, padding=1, stride=2, output_padding=1),
            snn.Leaky(**HIDE, output=True),
        )

    def forward(self, x):
        utils.reset(self.encoder)
        utils.reset(self.linearNet)
        utils.reset(self.decoder)
        spk_mem, spk_rec = [], []
        for _ in range(num_steps):
            spk_x, mem_x = self.encode(x)
            spk_rec.append(spk_x)
            spk_mem.append(mem_x)
        spk_rec = torch.stack(spk_rec, dim=2)
        spk_mem2 = []
        for step in range(num_steps):
            x_recon, x_mem_recon = self.decode(spk_rec[..., step])
            spk_mem2.append(x_mem_recon)
        return torch.stack(spk_mem2, dim=4)[:, :, :, :, -1]

    def encode(self, x):
        return self.encoder(x)

    def decode(self, x):
        spk_x, mem_x = self.linearNet(x)
        return self.decoder(spk_x)


@written(events(T, B, 7))
class StatesInLists(nn.Module):
    def __init__(self, sizes=(7, 9, 8, 4)):
        super().__init__()
        self.fcs = nn.ModuleList([nn.Linear(i, o) for i, o in zip(sizes[:-1], sizes[1:], strict=True)])
        self.lifs = nn.ModuleList([snn.Leaky(beta=0.8, spike_grad=spike_grad) for _ in sizes[1:]])

    def forward(self, x):
        mems = [lif.init_leaky() for lif in self.lifs]
        records = [[] for _ in self.lifs]
        for t in range(x.shape[0]):
            spk = x[t]
            for i, (fc, lif) in enumerate(zip(self.fcs, self.lifs, strict=True)):
                spk, mems[i] = lif(fc(spk), mems[i])
                records[i].append(spk)
        records = [torch.stack(record) for record in records]
        return records[-1].sum(0), records


@written(events(T, B, 7))
class StatesInDict(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleDict(
            {
                "fc_hidden": nn.Linear(7, 9),
                "hidden": snn.Leaky(beta=0.8, spike_grad=spike_grad),
                "fc_out": nn.Linear(9, 3),
                "out": snn.Synaptic(alpha=0.5, beta=0.8, spike_grad=spike_grad),
            }
        )

    def init_states(self):
        return {
            "hidden": (self.layers["hidden"].init_leaky(),),
            "out": tuple(self.layers["out"].init_synaptic()),
        }

    def step(self, x, states):
        for name in ("hidden", "out"):
            x, *states[name] = self.layers[name](self.layers[f"fc_{name}"](x), *states[name])
        return x, states

    def forward(self, x):
        states = self.init_states()
        outputs = []
        for frame in torch.unbind(x, dim=0):
            spk, states = self.step(frame, states)
            outputs.append(spk.unsqueeze(0))
        return torch.cat(outputs, dim=0)


class TwoLayers(nn.Module):
    def __init__(self, inputs=6, hidden=8, outputs=3):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(inputs, hidden), nn.Linear(hidden, outputs)
        self.lif1 = snn.Leaky(beta=0.8, spike_grad=spike_grad)
        self.lif2 = snn.Leaky(beta=0.8, spike_grad=spike_grad)


@written(events(B, T, 6))
class StatesInAttributes(TwoLayers):
    def __init__(self):
        super().__init__()
        self.reset_states()

    def reset_states(self):
        self.mem1 = self.lif1.init_leaky()
        self.mem2 = self.lif2.init_leaky()

    def step(self, x):
        spk1, self.mem1 = self.lif1(self.fc1(x), self.mem1)
        spk2, self.mem2 = self.lif2(self.fc2(spk1), self.mem2)
        return spk2

    def forward(self, x):
        self.reset_states()
        for t in range(x.size(1)):
            self.spk_out = self.step(x[:, t])
        return self.spk_out, self.mem2


@written(events(T, B, 6), time="outside", optional=True)
class StepsFromRest(TwoLayers):
    def forward(self, x):
        mem1 = self.lif1.init_leaky()
        mem2 = self.lif2.init_leaky()
        spk1, mem1 = self.lif1(self.fc1(x), mem1)
        spk2, mem2 = self.lif2(self.fc2(spk1), mem2)
        return spk2


@written(
    events(T, B, 6),
    time="outside",
    states=lambda result: result[1:],
    rest=lambda model: (model.lif1.init_leaky(), model.lif2.init_leaky()),
)
class StatesPassed(TwoLayers):
    def forward(self, x, mem1, mem2):
        spk1, mem1 = self.lif1(self.fc1(x), mem1)
        spk2, mem2 = self.lif2(self.fc2(spk1), mem2)
        return spk2, mem1, mem2


@written(events(T, B, 6), time="outside", states=lambda result: (result[1],))
class StatesOptional(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(6, 8), nn.Linear(8, 3)
        self.lif1 = snn.Synaptic(alpha=0.6, beta=0.8, spike_grad=spike_grad)
        self.lif2 = snn.Leaky(beta=0.8, spike_grad=spike_grad)

    def forward(self, x, state=None):
        if state is None:
            state = (*self.lif1.init_synaptic(), self.lif2.init_leaky())
        syn1, mem1, mem2 = state
        spk1, syn1, mem1 = self.lif1(self.fc1(x), syn1, mem1)
        spk2, mem2 = self.lif2(self.fc2(spk1), mem2)
        return spk2, (syn1, mem1, mem2)


@written(events(T, B, 1, 5, 5), time="outside")
class HiddenStates(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 3, 3)
        self.lif1 = snn.Leaky(**HIDE)
        self.fc = nn.Linear(27, 4)
        self.lif2 = snn.Leaky(**HIDE)

    def forward(self, x):
        x = self.lif1(self.conv1(x))
        x = torch.flatten(x, 1)
        return self.lif2(self.fc(x))


@written(events(T, B, 6))
class Preallocated(TwoLayers):
    def forward(self, x):
        steps, batch = x.shape[:2]
        mem1 = torch.zeros(batch, 8, device=x.device)
        mem2 = torch.zeros(batch, 3, device=x.device)
        spk_rec = torch.zeros(steps, batch, 3, device=x.device)
        mem_rec = torch.zeros(steps, batch, 3, device=x.device)
        for t in range(steps):
            spk1, mem1 = self.lif1(self.fc1(x[t]), mem1)
            spk2, mem2 = self.lif2(self.fc2(spk1), mem2)
            spk_rec[t] = spk2
            mem_rec[t] = mem2
        return spk_rec, mem_rec


@written(events(T, B, 6))
class DetachedStates(TwoLayers):
    def forward(self, x):
        mem1, mem2 = self.lif1.init_leaky(), self.lif2.init_leaky()
        mem_rec = []
        for t in range(x.size(0)):
            mem1, mem2 = mem1.detach(), mem2.detach()
            spk1, mem1 = self.lif1(self.fc1(x[t]), mem1)
            spk2, mem2 = self.lif2(self.fc2(spk1), mem2)
            mem_rec.append(mem2)
        return torch.stack(mem_rec)


@written(analog(B, 1, 3, 3))
class LitSNN(pl.LightningModule):
    def __init__(self, hidden=8, lr=1e-3):
        super().__init__()
        self.save_hyperparameters()
        self.flatten = nn.Flatten()
        self.fc1 = nn.Linear(9, hidden)
        self.lif1 = snn.Leaky(beta=0.8, spike_grad=spike_grad)
        self.fc2 = nn.Linear(hidden, 3)
        self.lif2 = snn.Leaky(beta=0.8, spike_grad=spike_grad)
        self.criterion = nn.CrossEntropyLoss()

    def forward(self, x):
        mem1, mem2 = self.lif1.init_leaky(), self.lif2.init_leaky()
        x = self.flatten(x)
        spk_rec = []
        for _ in range(num_steps):
            spk1, mem1 = self.lif1(self.fc1(x), mem1)
            spk2, mem2 = self.lif2(self.fc2(spk1), mem2)
            spk_rec.append(spk2)
        return torch.stack(spk_rec)

    def training_step(self, batch, batch_idx):
        x, y = batch
        loss = self.criterion(self(x).sum(0), y)
        self.log("train_loss", loss)
        return loss

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=self.hparams.lr)


@written(events(T, B, 6), return_spikes=True)
class OptionalRecords(TwoLayers):
    def forward(self, x, return_spikes=False):
        mem1, mem2 = self.lif1.init_leaky(), self.lif2.init_leaky()
        hidden, out = [], []
        for x_t in x:
            spk1, mem1 = self.lif1(self.fc1(x_t), mem1)
            spk2, mem2 = self.lif2(self.fc2(spk1), mem2)
            hidden.append(spk1)
            out.append(mem2)
        logits = torch.stack(out).mean(dim=0)
        if return_spikes:
            return logits, {"hidden": torch.stack(hidden), "rate": torch.stack(hidden).mean(dim=(0, 1))}
        return logits


@written(events(T, B, 8))
class SparseConnections(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(8, 9), nn.Linear(9, 3)
        self.register_buffer("mask1", (torch.rand(9, 8) > 0.5).float())
        self.register_buffer("mask2", (torch.rand(3, 9) > 0.3).float())
        self.lif1 = snn.Leaky(beta=0.8, spike_grad=spike_grad)
        self.lif2 = snn.Leaky(beta=0.8, spike_grad=spike_grad)

    def forward(self, x):
        mem1, mem2 = self.lif1.init_leaky(), self.lif2.init_leaky()
        out = []
        for t in range(x.size(0)):
            cur1 = F.linear(x[t], self.fc1.weight * self.mask1, self.fc1.bias)
            spk1, mem1 = self.lif1(cur1, mem1)
            cur2 = F.linear(spk1, self.fc2.weight * self.mask2, self.fc2.bias)
            spk2, mem2 = self.lif2(cur2, mem2)
            out.append(spk2)
        return torch.stack(out)


class Positive(nn.Module):
    def forward(self, weight):
        return F.softplus(weight)


@written(events(T, B, 2, 5, 5), time="outside")
def constrained_weights():
    conv = parametrizations.weight_norm(nn.Conv2d(2, 3, 3))
    hidden = parametrizations.spectral_norm(nn.Linear(27, 10))
    pruned = prune.random_unstructured(nn.Linear(10, 8), "weight", amount=0.3)
    positive = nn.Linear(8, 3)
    parametrize.register_parametrization(positive, "weight", Positive())
    return nn.Sequential(
        conv,
        snn.Leaky(**HIDE),
        nn.Flatten(),
        hidden,
        snn.Leaky(**HIDE),
        pruned,
        snn.Leaky(**HIDE),
        positive,
        snn.Leaky(**HIDE, output=True),
    )


@written(events(T, B, 6), analog(B, 5))
class EventsAndImage(nn.Module):
    def __init__(self):
        super().__init__()
        self.event_fc = nn.Linear(6, 8)
        self.event_lif = snn.Leaky(beta=0.8, spike_grad=spike_grad)
        self.image_fc = nn.Linear(5, 7)
        self.image_lif = snn.Leaky(beta=0.8, spike_grad=spike_grad)
        self.fuse = nn.Linear(15, 4)
        self.lif = snn.Leaky(beta=0.8, spike_grad=spike_grad)
        self.register_buffer("scale", torch.rand(15) + 0.5)

    def forward(self, events, image):
        mem_e, mem_i, mem = (m.init_leaky() for m in (self.event_lif, self.image_lif, self.lif))
        rec = []
        for t in range(events.size(0)):
            spk_e, mem_e = self.event_lif(self.event_fc(events[t]), mem_e)
            spk_i, mem_i = self.image_lif(self.image_fc(image), mem_i)
            features = torch.cat([spk_e, spk_i], dim=1) * self.scale
            spk, mem = self.lif(self.fuse(features), mem)
            rec.append(spk)
        return torch.stack(rec, dim=0).mean(dim=0)


@written(events(T, B, 6))
class GainsAndSkips(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1, self.fc2, self.fc3 = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(22, 3)
        self.lif1 = snn.Leaky(beta=0.8, spike_grad=spike_grad)
        self.lif2 = snn.Leaky(beta=0.8, spike_grad=spike_grad)
        self.lif3 = snn.Leaky(beta=0.8, spike_grad=spike_grad)
        self.gain = nn.Parameter(torch.tensor(1.3))
        self.alpha = nn.Parameter(torch.rand(8))

    def forward(self, x):
        mem1 = mem2 = mem3 = None
        rec = []
        for x_t in x:
            spk1, mem1 = self.lif1(self.gain * self.fc1(x_t), mem1)
            spk2, mem2 = self.lif2(self.fc2(spk1) + self.alpha * spk1 - 0.1, mem2)
            spk3, mem3 = self.lif3(self.fc3(torch.cat((x_t, spk1, spk2), -1)), mem3)
            rec.append(spk3)
        return torch.stack(rec)


@written(analog(B, 1, 3, 3))
class RateCoded(TwoLayers):
    def __init__(self):
        super().__init__(inputs=9)

    def forward(self, x):
        x_spk = spikegen.rate(x.view(x.size(0), -1), num_steps=num_steps)
        mem1, mem2 = self.lif1.init_leaky(), self.lif2.init_leaky()
        spk2_rec = []
        for step in range(num_steps):
            spk1, mem1 = self.lif1(self.fc1(x_spk[step]), mem1)
            spk2, mem2 = self.lif2(self.fc2(spk1), mem2)
            spk2_rec.append(spk2)
        return torch.stack(spk2_rec, dim=0)


@written(analog(B, 3, 4, 4), stochastic=True)
class EncodedEachStep(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, kernel_size=3, stride=2, padding=1)
        self.lif1 = snn.Leaky(beta=0.8, spike_grad=spike_grad)
        self.pool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(4, 3)
        self.lif_out = snn.Leaky(beta=0.8, spike_grad=spike_grad)

    def _encode(self, x, stochastic):
        return torch.rand_like(x).le(x).to(x.dtype) if stochastic else x

    def forward(self, x, stochastic=True):
        mem1, mem_out = self.lif1.init_leaky(), self.lif_out.init_leaky()
        spk_out_list = []
        for _ in range(num_steps):
            x_t = self._encode(x, stochastic=stochastic)
            spk1, mem1 = self.lif1(self.conv1(x_t), mem1)
            cur = self.fc(self.pool(spk1).flatten(1))
            spk_out, mem_out = self.lif_out(cur, mem_out)
            spk_out_list.append(spk_out)
        return torch.stack(spk_out_list).sum(0)


@written(events(B, T, 6))
class ActivationsBetween(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.GELU())
        self.lif1 = snn.Leaky(beta=0.8, spike_grad=spike_grad)
        self.mlp = nn.Sequential(nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 8), nn.LayerNorm(8))
        self.lif2 = snn.Leaky(beta=0.8, spike_grad=spike_grad)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        mem1, mem2 = self.lif1.init_leaky(), self.lif2.init_leaky()
        logits = []
        for t in range(x.shape[1]):
            spk1, mem1 = self.lif1(self.embed(x[:, t]), mem1)
            spk2, mem2 = self.lif2(self.mlp(spk1) + spk1, mem2)
            logits.append(self.head(spk2))
        return torch.stack(logits, dim=1)


@written(analog(B, 2, 16))
class Electrocardiogram(nn.Module):
    def __init__(self, steps=3):
        super().__init__()
        self.steps = steps
        self.conv1 = nn.Conv1d(2, 4, 5, padding=2, padding_mode="circular")
        self.bn1 = nn.BatchNorm1d(4)
        self.lif1 = snn.Leaky(**HIDE)
        self.conv2 = nn.Conv1d(4, 4, 3, padding=2, dilation=2, groups=2)
        self.lif2 = snn.Leaky(**HIDE)
        self.fc = nn.Linear(16, 3)
        self.lif3 = snn.Leaky(**HIDE, output=True)

    def forward(self, x):
        for m in self.modules():
            if isinstance(m, snn.Leaky):
                m.reset_mem()
        out = []
        for _ in range(self.steps):
            h = self.lif1(F.max_pool1d(self.bn1(self.conv1(x)), 2))
            h = F.max_pool1d(self.lif2(self.conv2(h)), kernel_size=2)
            spk, mem = self.lif3(self.fc(h.flatten(1)))
            out.append(mem)
        return F.softmax(torch.stack(out).mean(0), dim=1)


@written(events(T, B, 6))
class Gated(nn.Module):
    def __init__(self):
        super().__init__()
        self.value, self.gate, self.out = nn.Linear(6, 8), nn.Linear(6, 8), nn.Linear(8, 3)
        self.lif_v = snn.Leaky(beta=0.8, spike_grad=spike_grad)
        self.lif_g = snn.Leaky(beta=0.8, spike_grad=spike_grad)
        self.lif_o = snn.Leaky(beta=0.8, spike_grad=spike_grad)

    def forward(self, x):
        mem_v, mem_g, mem_o = self.lif_v.init_leaky(), self.lif_g.init_leaky(), self.lif_o.init_leaky()
        total = []
        for x_t in x:
            v, mem_v = self.lif_v(self.value(x_t), mem_v)
            g, mem_g = self.lif_g(self.gate(x_t), mem_g)
            o, mem_o = self.lif_o(self.out(v * g), mem_o)
            total.append(o)
        return sum(total)


@written(lambda: torch.randint(0, 11, (B, 5)))
class TextClassifier(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(11, 6)
        self.fc1, self.fc2 = nn.Linear(6, 8), nn.Linear(8, 2)
        self.lif1 = snn.Leaky(beta=0.8, spike_grad=spike_grad)

    def forward(self, tokens):
        embedded = self.embedding(tokens)
        mem = self.lif1.init_leaky()
        spikes = []
        for t in range(tokens.size(1)):
            spk, mem = self.lif1(self.fc1(embedded[:, t]), mem)
            spikes.append(spk)
        return self.fc2(torch.stack(spikes, dim=1).mean(dim=1))


@written(events(B, 6, 3))
class Forecast(nn.Module):
    def __init__(self, horizon=2):
        super().__init__()
        self.horizon = horizon
        self.fc_in = nn.Linear(3, 8)
        self.lif = snn.Leaky(beta=0.9, spike_grad=spike_grad, learn_beta=True)
        self.fc_hidden = nn.Linear(8, 8)
        self.li = snn.Leaky(beta=0.7, spike_grad=spike_grad, reset_mechanism="none")
        self.head = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, horizon * 3))

    def forward(self, history):
        history = history.permute(1, 0, 2)
        mem, out = self.lif.init_leaky(), self.li.init_leaky()
        for step in range(history.size(0)):
            spk, mem = self.lif(self.fc_in(history[step]), mem)
            _, out = self.li(self.fc_hidden(spk), out)
        return self.head(out).view(-1, self.horizon, 3)


@written(events(T, B, 2, 5, 5))
class OwnParameters(nn.Module):
    def __init__(self):
        super().__init__()
        self.kernel = nn.Parameter(torch.randn(3, 2, 3, 3))
        self.bias = nn.Parameter(torch.randn(3))
        self.w = nn.Parameter(torch.randn(3, 9, 4))
        self.lif1 = snn.Leaky(beta=0.8, spike_grad=spike_grad)
        self.lif2 = snn.Leaky(beta=0.8, spike_grad=spike_grad)

    def forward(self, x):
        mem1, mem2 = self.lif1.init_leaky(), self.lif2.init_leaky()
        rec = []
        for t in range(x.shape[0]):
            cur = F.conv2d(F.pad(x[t], (1, 0, 1, 0)), self.kernel, self.bias, stride=2, padding=0)
            spk1, mem1 = self.lif1(F.pad(cur, (0, 1, 0, 1)), mem1)
            spk1 = spk1.reshape(spk1.size(0), 3, 9)
            spk2, mem2 = self.lif2(torch.einsum("bci,cio->bco", spk1, self.w), mem2)
            rec.append(spk2.sum(dim=1))
        return torch.stack(rec)


@written(events(T, B, 6))
class OneNeuronObject(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1, self.fc2, self.fc3 = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        self.lif = snn.Leaky(beta=0.8, spike_grad=spike_grad)

    def forward(self, x):
        mem1, mem2, mem3 = self.lif.init_leaky(), self.lif.init_leaky(), self.lif.init_leaky()
        rec = []
        for x_t in x:
            spk, mem1 = self.lif(self.fc1(x_t), mem1)
            spk, mem2 = self.lif(self.fc2(spk), mem2)
            spk, mem3 = self.lif(self.fc3(spk), mem3)
            rec.append(spk)
        return torch.stack(rec).mean(0)


class Tower(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(6, 8), nn.Linear(8, 5)
        self.lif1 = snn.Leaky(beta=0.8, spike_grad=spike_grad)
        self.lif2 = snn.Leaky(beta=0.8, spike_grad=spike_grad)

    def forward(self, x):
        mem1, mem2 = self.lif1.init_leaky(), self.lif2.init_leaky()
        rec = []
        for x_t in x:
            spk1, mem1 = self.lif1(self.fc1(x_t), mem1)
            spk2, mem2 = self.lif2(self.fc2(spk1), mem2)
            rec.append(spk2)
        return torch.stack(rec).mean(0)


@written(events(T, B, 6), events(T, B, 6))
class Siamese(nn.Module):
    def __init__(self):
        super().__init__()
        self.tower = Tower()

    def forward(self, left, right):
        a, b = self.tower(left), self.tower(right)
        return torch.sqrt(((a - b) ** 2).sum(dim=1) + 1e-3)


@written(events(T, B, 1, 3, 3))
class AnyLayout(TwoLayers):
    def __init__(self):
        super().__init__(inputs=9)

    def forward(self, x):
        if x.dim() == 4:
            x = x.unsqueeze(0).expand(num_steps, -1, -1, -1, -1)
        elif x.ndim != 5:
            raise ValueError(f"expected 4 or 5 dimensions, got {x.ndim}")
        x = x.flatten(2)
        if x.shape[-1] != 9:
            x = F.pad(x, (0, 9 - x.shape[-1]))
        mem1, mem2 = self.lif1.init_leaky(), self.lif2.init_leaky()
        out = torch.zeros(x.shape[1], 3)
        for step in range(x.shape[0]):
            spk1, mem1 = self.lif1(self.fc1(x[step]), mem1)
            spk2, mem2 = self.lif2(self.fc2(spk1), mem2)
            out = torch.maximum(out, spk2)
        return out


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(1, 2, 3), snn.Leaky(**HIDE), nn.AvgPool2d(2), nn.Flatten())

    def forward(self, x):
        spk_rec = []
        utils.reset(self.net)
        for step in range(x.size(0)):
            spk_rec.append(self.net(x[step]))
        return torch.stack(spk_rec)


@written(events(T, B, 1, 6, 6))
class SummedThenReadOut(nn.Module):
    def __init__(self):
        super().__init__()
        self.scnn = Encoder()
        self.head = nn.Sequential(nn.Linear(8, 5), nn.Sigmoid(), nn.Linear(5, 2))

    def forward(self, x):
        return self.head(self.scnn(x).sum(dim=0))


@written(events(T, B, 6), optional=True)
class OwnBatchNormEachStep(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(6, 8), nn.Linear(8, 3)
        self.bns = nn.ModuleList([nn.BatchNorm1d(8) for _ in range(T)])
        self.lif1 = snn.Leaky(beta=0.8, spike_grad=spike_grad)
        self.lif2 = snn.Leaky(beta=0.8, spike_grad=spike_grad)

    def forward(self, x):
        mem1, mem2 = self.lif1.init_leaky(), self.lif2.init_leaky()
        rec = []
        for t in range(x.size(0)):
            spk1, mem1 = self.lif1(self.bns[t](self.fc1(x[t])), mem1)
            spk2, mem2 = self.lif2(self.fc2(spk1), mem2)
            rec.append(spk2)
        return torch.stack(rec)


@written(events(T, B, 6), refused=r"(?i)spike|value|data|branch|control flow")
class BranchesOnSpikes(TwoLayers):
    def forward(self, x):
        mem1, mem2 = self.lif1.init_leaky(), self.lif2.init_leaky()
        rec = []
        for x_t in x:
            spk1, mem1 = self.lif1(self.fc1(x_t), mem1)
            if spk1.sum() > 0:
                spk1 = spk1 / spk1.sum()
            spk2, mem2 = self.lif2(self.fc2(spk1), mem2)
            rec.append(spk2)
        return torch.stack(rec)


@written(events(T, B, 6), optional=True)
class HandWrittenRecurrence(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(6, 8), nn.Linear(8, 3)
        self.rec = nn.Linear(8, 8, bias=False)
        self.lif1 = snn.Leaky(beta=0.8, spike_grad=spike_grad)
        self.lif2 = snn.Leaky(beta=0.8, spike_grad=spike_grad)

    def forward(self, x):
        mem1, mem2 = self.lif1.init_leaky(), self.lif2.init_leaky()
        spk1 = torch.zeros(x.size(1), 8, device=x.device)
        out = []
        for t in range(x.size(0)):
            spk1, mem1 = self.lif1(self.fc1(x[t]) + self.rec(spk1), mem1)
            spk2, mem2 = self.lif2(self.fc2(spk1), mem2)
            out.append(spk2)
        return torch.stack(out)


@written(events(T, B, 6), optional=True)
class HandWrittenNeurons(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(6, 8), nn.Linear(8, 3)
        self.beta, self.threshold = 0.8, 0.4

    def lif(self, current, mem, spk):
        mem = self.beta * mem * (1 - spk) + current
        return mem, ATan.apply(mem - self.threshold)

    def forward(self, x):
        mem1 = spk1 = torch.zeros(x.size(1), 8)
        mem2 = spk2 = torch.zeros(x.size(1), 3)
        out = 0
        for x_t in x:
            mem1, spk1 = self.lif(self.fc1(x_t), mem1, spk1)
            mem2, spk2 = self.lif(self.fc2(spk1), mem2, spk2)
            out = out + spk2
        return out / x.size(0)


class LeakyLayer(nn.Module):
    def __init__(self, i, o):
        super().__init__()
        self.fc = nn.Linear(i, o)
        self.lif = snn.Leaky(beta=0.8, spike_grad=spike_grad)

    def forward(self, x_seq):
        mem = self.lif.init_leaky()
        spikes, mems = [], []
        for x in x_seq:
            spk, mem = self.lif(self.fc(x), mem)
            spikes.append(spk)
            mems.append(mem)
        return torch.stack(spikes), torch.stack(mems)


@written(events(T, B, 6))
class LoopsInLayers(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer1, self.layer2, self.layer3 = LeakyLayer(6, 8), LeakyLayer(8, 8), LeakyLayer(8, 3)

    def forward(self, x):
        x1, _ = self.layer1(x)
        x2, _ = self.layer2(x1)
        _, mem = self.layer3(0.5 * (x1 + x2))
        return mem[-1], (x1, x2)


@written(events(B, 5, 6))
class FrameDifferences(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(6, 8), nn.Linear(8, 3)
        self.time_embedding = nn.Parameter(0.2 * torch.randn(5, 8))
        self.lif1 = snn.Leaky(beta=0.8, spike_grad=spike_grad)
        self.lif2 = snn.Leaky(beta=0.8, spike_grad=spike_grad)

    def forward(self, x):
        mem1, mem2 = self.lif1.init_leaky(), self.lif2.init_leaky()
        weights = torch.softmax(torch.arange(x.size(1), dtype=x.dtype), dim=0)
        out = 0
        for t in range(x.size(1)):
            frame = x[:, t] - x[:, t - 1] if t > 0 else x[:, t]
            spk1, mem1 = self.lif1(self.fc1(frame) + self.time_embedding[t], mem1)
            spk2, mem2 = self.lif2(self.fc2(spk1), mem2)
            out = out + weights[t] * mem2
        return out


@written(analog(B, 6))
class NoisyInput(nn.Module):
    def __init__(self, std=0.1):
        super().__init__()
        self.std = std
        self.fc1, self.fc2 = nn.Linear(6, 8), nn.Linear(8, 3)
        self.lif1 = snn.Leaky(beta=0.8, spike_grad=spike_grad)
        self.lif2 = snn.Leaky(beta=0.8, spike_grad=spike_grad)

    def forward(self, x):
        mem1, mem2 = self.lif1.init_leaky(), self.lif2.init_leaky()
        rec = []
        for _ in range(num_steps):
            cur = self.fc1(x)
            spk1, mem1 = self.lif1(cur + self.std * torch.randn_like(cur), mem1)
            spk2, mem2 = self.lif2(self.fc2(spk1), mem2)
            rec.append(spk2)
        return torch.stack(rec)


@written(analog(B, 1, 6, 6))
class FrozenFeatures(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten())
        self.proj = nn.Linear(8, 7)
        self.lif1 = snn.Leaky(beta=0.8, spike_grad=spike_grad)
        self.gru = nn.GRU(7, 5, batch_first=True)
        self.head = nn.Linear(5, 2)

    def forward(self, x):
        with torch.no_grad():
            features = self.backbone(x)
        mem1 = self.lif1.init_leaky()
        spikes = []
        for _ in range(num_steps):
            spk1, mem1 = self.lif1(self.proj(features), mem1)
            spikes.append(spk1)
        seq = torch.stack(spikes, dim=1)
        out, _ = self.gru(seq)
        return {"logits": self.head(out[:, -1]), "sparsity": 1 - seq.mean(), "top": seq.sum(1).argmax(1)}


@written(events(T, B, 6))
class KeepsRecordings(TwoLayers):
    def __init__(self):
        super().__init__()
        self.recordings = {}

    def forward(self, x):
        mem1, mem2 = self.lif1.init_leaky(), self.lif2.init_leaky()
        self.recordings = {"spk1": [], "spk2": []}
        for step in range(x.shape[0]):
            spk1, mem1 = self.lif1(self.fc1(x[step]), mem1)
            spk2, mem2 = self.lif2(self.fc2(spk1), mem2)
            self.recordings["spk1"].append(spk1.detach())
            self.recordings["spk2"].append(spk2)
        return torch.stack(self.recordings["spk2"]).sum(0)


@written(events(T, B, 6), optional=True)
class ThresholdSchedule(TwoLayers):
    def forward(self, x):
        mem1, mem2 = self.lif1.init_leaky(), self.lif2.init_leaky()
        rec = []
        for t in range(x.size(0)):
            self.lif1.threshold = torch.tensor(0.2 + 0.2 * t)
            spk1, mem1 = self.lif1(self.fc1(x[t]), mem1)
            spk2, mem2 = self.lif2(self.fc2(spk1), mem2)
            rec.append(spk2)
        return torch.stack(rec)


@written(events(T, B, 6), optional=True)
class SpikingLSTM(nn.Module):
    def __init__(self):
        super().__init__()
        self.slstm = snn.SLSTM(6, 6, spike_grad=spike_grad, threshold=0.1)
        self.fc = nn.Linear(6, 3)
        self.lif = snn.Leaky(beta=0.8, spike_grad=spike_grad)

    def forward(self, x):
        syn, mem = self.slstm.init_slstm()
        mem2 = self.lif.init_leaky()
        rec = []
        for x_t in x:
            spk, syn, mem = self.slstm(x_t, syn, mem)
            spk2, mem2 = self.lif(self.fc(spk), mem2)
            rec.append(spk2)
        return torch.stack(rec)


@written(analog(B, 1, 5), optional=True)
class LatencyCoded(TwoLayers):
    def __init__(self):
        super().__init__(inputs=5)

    def forward(self, x):
        spike_data = spikegen.latency(x.flatten(1), num_steps=num_steps, normalize=True, linear=True).to(x)
        mem1, mem2 = self.lif1.init_leaky(), self.lif2.init_leaky()
        rec = []
        for step in range(num_steps):
            spk1, mem1 = self.lif1(self.fc1(spike_data[step]), mem1)
            spk2, mem2 = self.lif2(self.fc2(spk1), mem2)
            rec.append(spk2)
        return torch.stack(rec)


# ------------------------------------------------------------------------------------------------ SpikingJelly


@written(events(T, B, 1, 4, 4))
class MultiStepMean(nn.Module):
    def __init__(self, tau=2.0):
        super().__init__()
        self.layer = nn.Sequential(
            layer.Flatten(),
            layer.Linear(16, 9, bias=False),
            neuron.LIFNode(tau=tau, surrogate_function=surrogate.ATan()),
            layer.Linear(9, 3, bias=False),
            neuron.LIFNode(tau=tau, surrogate_function=surrogate.ATan()),
        )
        functional.set_step_mode(self, step_mode="m")

    def forward(self, x):
        return self.layer(x).mean(0)


@written(analog(B, 1, 6, 6))
class StaticImageRepeated(nn.Module):
    def __init__(self, T=4, channels=3):
        super().__init__()
        self.T = T
        self.conv_fc = nn.Sequential(
            layer.Conv2d(1, channels, kernel_size=3, padding=1, bias=False),
            layer.BatchNorm2d(channels),
            neuron.IFNode(surrogate_function=surrogate.ATan()),
            layer.MaxPool2d(2, 2),
            layer.Conv2d(channels, channels, kernel_size=3, padding=1, bias=False),
            layer.BatchNorm2d(channels),
            neuron.IFNode(surrogate_function=surrogate.ATan()),
            layer.AvgPool2d(3, 1),
            layer.Flatten(),
            layer.Dropout(0.5),
            layer.Linear(channels, 4, bias=False),
            neuron.IFNode(surrogate_function=surrogate.ATan()),
        )
        functional.set_step_mode(self, step_mode="m")

    def forward(self, x: torch.Tensor):
        x_seq = x.unsqueeze(0).repeat(self.T, 1, 1, 1, 1)
        x_seq = self.conv_fc(x_seq)
        fr = x_seq.mean(0)
        return fr


class SEWBlock(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv = nn.Sequential(
            layer.SeqToANNContainer(
                nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels)
            ),
            neuron.ParametricLIFNode(init_tau=2.0, detach_reset=True, step_mode="m"),
        )

    def forward(self, x):
        return self.conv(x) + x


@written(events(B, T, 2, 6, 6))
class BatchFirstResidual(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(
            layer.SeqToANNContainer(nn.Conv2d(2, 3, 1, bias=False), nn.BatchNorm2d(3)),
            neuron.ParametricLIFNode(init_tau=2.0, detach_reset=True, step_mode="m"),
        )
        self.block1 = SEWBlock(3)
        self.pool = layer.SeqToANNContainer(nn.MaxPool2d(2, 2))
        self.block2 = SEWBlock(3)
        self.out = nn.Linear(27, 4)

    def forward(self, x_seq):
        x_seq = x_seq.permute(1, 0, 2, 3, 4)
        x_seq = self.pool(self.block1(self.stem(x_seq)))
        x_seq = self.block2(x_seq)
        return self.out(x_seq.flatten(2).mean(0))


class SPS(nn.Module):
    def __init__(self, embed=8):
        super().__init__()
        self.proj_conv = nn.Conv2d(1, embed, 3, padding=1, bias=False)
        self.proj_bn = nn.BatchNorm2d(embed)
        self.proj_lif = neuron.LIFNode(tau=2.0, detach_reset=True, step_mode="m")
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.rpe_conv = nn.Conv2d(embed, embed, 3, padding=1, bias=False)
        self.rpe_bn = nn.BatchNorm2d(embed)
        self.rpe_lif = neuron.LIFNode(tau=2.0, detach_reset=True, step_mode="m")

    def forward(self, x):
        T, B, C, H, W = x.shape
        x = self.proj_bn(self.proj_conv(x.flatten(0, 1))).reshape(T, B, -1, H, W).contiguous()
        x = self.maxpool(self.proj_lif(x).flatten(0, 1).contiguous())
        x_feat = x.reshape(T, B, -1, H // 2, W // 2).contiguous()
        x = self.rpe_bn(self.rpe_conv(x)).reshape(T, B, -1, H // 2, W // 2).contiguous()
        x = self.rpe_lif(x) + x_feat
        return x.flatten(-2).transpose(-1, -2)


class SSA(nn.Module):
    def __init__(self, dim=8, num_heads=2):
        super().__init__()
        self.dim, self.num_heads, self.scale = dim, num_heads, 0.25
        for name in ("q", "k", "v", "proj"):
            setattr(self, f"{name}_linear", nn.Linear(dim, dim))
            setattr(self, f"{name}_bn", nn.BatchNorm1d(dim))
            setattr(self, f"{name}_lif", neuron.LIFNode(tau=2.0, detach_reset=True, step_mode="m"))
        self.attn_lif = neuron.LIFNode(tau=2.0, v_threshold=0.5, detach_reset=True, step_mode="m")

    def project(self, name, x, T, B, N, C):
        x = getattr(self, f"{name}_linear")(x.flatten(0, 1))
        x = getattr(self, f"{name}_bn")(x.transpose(-1, -2)).transpose(-1, -2).reshape(T, B, N, C)
        return getattr(self, f"{name}_lif")(x.contiguous())

    def forward(self, x):
        T, B, N, C = x.shape
        heads = (T, B, N, self.num_heads, C // self.num_heads)
        q, k, v = (self.project(n, x, T, B, N, C).reshape(heads).permute(0, 1, 3, 2, 4) for n in "qkv")
        attn = (q @ k.transpose(-2, -1)) * self.scale
        x = (attn @ v).transpose(2, 3).reshape(T, B, N, C).contiguous()
        return self.project("proj", self.attn_lif(x), T, B, N, C)


class MLP(nn.Module):
    def __init__(self, dim=8, hidden=12):
        super().__init__()
        self.fc1_linear, self.fc1_bn = nn.Linear(dim, hidden), nn.BatchNorm1d(hidden)
        self.fc1_lif = neuron.LIFNode(tau=2.0, detach_reset=True, step_mode="m")
        self.fc2_linear, self.fc2_bn = nn.Linear(hidden, dim), nn.BatchNorm1d(dim)
        self.fc2_lif = neuron.LIFNode(tau=2.0, detach_reset=True, step_mode="m")
        self.c_hidden, self.c_output = hidden, dim

    def forward(self, x):
        T, B, N, C = x.shape
        x = self.fc1_linear(x.flatten(0, 1))
        x = self.fc1_bn(x.transpose(-1, -2)).transpose(-1, -2).reshape(T, B, N, self.c_hidden).contiguous()
        x = self.fc1_lif(x)
        x = self.fc2_linear(x.flatten(0, 1))
        x = self.fc2_bn(x.transpose(-1, -2)).transpose(-1, -2).reshape(T, B, N, C).contiguous()
        return self.fc2_lif(x)


@written(analog(B, 1, 4, 4))
class Spikformer(nn.Module):
    def __init__(self, T=3):
        super().__init__()
        self.T = T
        self.patch_embed, self.attn, self.mlp = SPS(), SSA(), MLP()
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        x = (x.unsqueeze(0)).repeat(self.T, 1, 1, 1, 1)
        x = self.patch_embed(x)
        x = x + self.attn(x)
        x = x + self.mlp(x)
        x = x.mean(2)
        return self.head(x.mean(0))


@written(events(T, B, 2, 8, 8))
class GestureNet(nn.Module):
    def __init__(self, channels=3):
        super().__init__()
        conv = []
        for i in range(3):
            conv.append(layer.Conv2d(2 if i == 0 else channels, channels, 3, padding=1, bias=False))
            conv.append(layer.BatchNorm2d(channels))
            conv.append(neuron.LIFNode(tau=2.0, surrogate_function=surrogate.ATan(), detach_reset=True))
            conv.append(layer.MaxPool2d(2, 2))
        self.conv_fc = nn.Sequential(
            *conv,
            layer.Flatten(),
            layer.Dropout(0.5),
            layer.Linear(channels, 8),
            neuron.LIFNode(tau=2.0, surrogate_function=surrogate.ATan(), detach_reset=True),
            layer.Dropout(0.5),
            layer.Linear(8, 6),
            neuron.LIFNode(tau=2.0, surrogate_function=surrogate.ATan(), detach_reset=True),
            layer.VotingLayer(2),
        )
        functional.set_step_mode(self, "m")

    def forward(self, x):
        functional.reset_net(self)
        return F.log_softmax(self.conv_fc(x).sum(0), dim=1)


@written(events(T, B, 2, 4, 4))
class ContainersInContainers(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(
            layer.SeqToANNContainer(nn.Conv2d(2, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)),
            neuron.LIFNode(tau=2.0, detach_reset=True, step_mode="m"),
            layer.SeqToANNContainer(nn.AvgPool2d(2, 2)),
        )
        self.classifier = layer.MultiStepContainer(
            nn.Flatten(),
            nn.Linear(16, 8),
            neuron.LIFNode(tau=2.0, detach_reset=True),
            layer.SynapseFilter(tau=2.0, learnable=True),
            nn.Linear(8, 3),
        )

    def forward(self, x):
        functional.reset_net(self)
        out = self.classifier(self.features(x))
        return out[-1]


@written(analog(B, 4))
class DQSN(nn.Module):
    def __init__(self, T=5):
        super().__init__()
        self.fc = nn.Sequential(
            nn.Linear(4, 9),
            neuron.IFNode(),
            nn.Linear(9, 2),
            neuron.LIFNode(tau=2.0, v_threshold=float("inf")),
        )
        self.T = T

    def forward(self, x):
        functional.reset_net(self)
        for _ in range(self.T):
            self.fc(x)
        return self.fc[-1].v


class LeakyReadout(neuron.SimpleLIFNode):
    def single_step_forward(self, x):
        self.neuronal_charge(x)
        return self.v


@written(analog(B, 4), optional=True)
class OwnReadout(nn.Module):
    def __init__(self, T=4):
        super().__init__()
        self.T = T
        self.fc1, self.fc2 = nn.Linear(4, 9), nn.Linear(9, 2)
        self.sn = neuron.LIFNode(tau=2.0, surrogate_function=surrogate.ATan())
        self.out = LeakyReadout(tau=2.0, decay_input=True, v_threshold=float("inf"))

    def forward(self, x):
        functional.reset_net(self)
        max_mem = None
        for _ in range(self.T):
            y = self.out(self.fc2(self.sn(self.fc1(x))))
            max_mem = y if max_mem is None else torch.max(max_mem, y)
        return max_mem


@written(analog(B, 4))
class PotentialSequence(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1 = layer.Linear(4, 9, step_mode="m")
        self.lif1 = neuron.LIFNode(tau=2.0, step_mode="m")
        self.fc2 = layer.Linear(9, 3, step_mode="m")
        self.lif2 = neuron.LIFNode(tau=2.0, step_mode="m", v_reset=None, store_v_seq=True)

    def forward(self, x):
        x = x.expand(T, *x.shape)
        spikes = self.lif2(self.fc2(self.lif1(self.fc1(x))))
        return {"rate": spikes.mean(0), "v": self.lif2.v_seq.mean(0)}


@written(analog(B, 4))
class NonSpikingReadout(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Sequential(
            layer.Linear(4, 9),
            neuron.IFNode(v_reset=None, surrogate_function=surrogate.Sigmoid()),
            layer.Linear(9, 2),
            neuron.NonSpikingLIFNode(tau=2.0, decode="last_mem"),
        )
        functional.set_step_mode(self, "m")

    def forward(self, state):
        return self.fc(torch.stack([state] * 5))


@written(events(3, B, 1, 4, 4, 4))
class Volumes(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = layer.Conv3d(1, 2, 3, padding=1)
        self.bn1 = layer.BatchNorm3d(2)
        self.sn1 = neuron.LIFNode(tau=2.0)
        self.pool1 = layer.MaxPool3d(2)
        self.conv2 = layer.Conv3d(2, 3, 2, groups=1, bias=False)
        self.sn2 = neuron.LIFNode(tau=2.0)
        self.fc = layer.Linear(3, 2)
        functional.set_step_mode(self, "m")

    def forward(self, x):
        x = self.pool1(self.sn1(self.bn1(self.conv1(x))))
        x = self.sn2(self.conv2(x))
        return self.fc(x.flatten(2)).mean(dim=0)


@written(events(B, T, 2, 6, 6))
class DepthwiseSeparable(nn.Module):
    def __init__(self):
        super().__init__()
        self.depthwise = nn.Conv2d(2, 4, 3, padding=1, groups=2, bias=False)
        self.pointwise = nn.Conv2d(4, 3, 1)
        self.bn = nn.BatchNorm2d(3)
        self.lif1 = neuron.LIFNode(tau=2.0, step_mode="m")
        self.lif2 = neuron.LIFNode(tau=2.0, step_mode="m")
        self.fc = nn.Linear(27, 3)

    def forward(self, x):
        x = x.transpose(0, 1).contiguous()
        T, B = x.shape[:2]
        x = self.depthwise(x.flatten(0, 1))
        x = self.lif1(x.view(T, B, *x.shape[1:]))
        x = F.avg_pool2d(self.bn(self.pointwise(x.flatten(0, 1))), 2)
        x = self.lif2(x.view(T, B, *x.shape[1:]))
        x = self.fc(x.flatten(2))
        return x.transpose(0, 1)


@written(analog(B, 1, 3, 3))
class PoissonLoop(nn.Module):
    def __init__(self, T=4):
        super().__init__()
        self.T = T
        self.encoder = encoding.PoissonEncoder()
        self.net = nn.Sequential(
            layer.Flatten(), layer.Linear(9, 8), neuron.LIFNode(), layer.Linear(8, 3), neuron.LIFNode()
        )

    def forward(self, img):
        functional.reset_net(self.net)
        out_fr = 0.0
        for _ in range(self.T):
            encoded_img = self.encoder(img)
            out_fr += self.net(encoded_img)
        out_fr = out_fr / self.T
        return out_fr


@written(events(6, B, 9), time="outside")
def single_step_outside():
    return nn.Sequential(
        layer.Linear(9, 12, bias=False),
        neuron.LIFNode(tau=2.0, surrogate_function=surrogate.ATan()),
        layer.SynapseFilter(tau=3.0),
        layer.Linear(12, 4, bias=False),
        neuron.LIFNode(tau=2.0, surrogate_function=surrogate.ATan()),
    )


class UNetBlock(nn.Sequential):
    def __init__(self, inputs, outputs):
        super().__init__(
            layer.Conv2d(inputs, outputs, 3, padding=1, bias=False),
            layer.BatchNorm2d(outputs),
            neuron.IFNode(surrogate_function=surrogate.ATan()),
        )


@written(analog(B, 1, 7, 7))
class UNet(nn.Module):
    def __init__(self, timesteps=3):
        super().__init__()
        self.timesteps = timesteps
        self.down1, self.down2 = UNetBlock(1, 2), UNetBlock(2, 3)
        self.pool = nn.MaxPool2d(2)
        self.up = UNetBlock(5, 2)
        self.out_conv = nn.Conv2d(2, 1, 1)

    def forward(self, x):
        masks = []
        for _ in range(self.timesteps):
            skip = self.down1(x)
            y = self.down2(self.pool(skip))
            y = F.interpolate(y, size=skip.shape[-2:], mode="bilinear", align_corners=False)
            y = self.up(torch.cat([skip, y], dim=1))
            masks.append(self.out_conv(y))
        return torch.sigmoid(torch.stack(masks, 0).mean(0))


@written(events(T, B, 3, 8))
class WeightsUsedTwice(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(8, 6)
        self.shared = nn.Linear(6, 6)
        self.lif = nn.ModuleList(neuron.LIFNode(tau=2.0, step_mode="m") for _ in range(3))
        self.head = nn.Linear(6, 2)

    def forward(self, tokens):
        x = self.lif[0](self.embed(tokens))
        for lif in self.lif[1:]:
            x = x + lif(self.shared(x))
        left, right = x.chunk(2, dim=-1)
        x = torch.cat([left - right, right], dim=-1)
        return self.head(x.sum(dim=2)).mean(0)


@written(events(T, B, 6))
class RecurrentContainer(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(
            layer.Linear(6, 8),
            layer.LinearRecurrentContainer(neuron.LIFNode(), in_features=8, out_features=8),
            layer.Linear(8, 3),
            neuron.LIFNode(),
        )
        functional.set_step_mode(self, "m")

    def forward(self, x):
        return self.net(x).sum(0) / x.size(0)


class Residual(nn.Module):
    def __init__(self, lif, i, o, stride=1):
        super().__init__()
        self.conv1, self.bn1, self.lif1 = nn.Conv2d(i, o, 3, stride, 1, bias=False), nn.BatchNorm2d(o), lif()
        self.conv2, self.bn2, self.lif2 = nn.Conv2d(o, o, 3, 1, 1, bias=False), nn.BatchNorm2d(o), lif()
        self.downsample = None
        if stride != 1 or i != o:
            self.downsample = nn.Sequential(nn.Conv2d(i, o, 1, stride, bias=False), nn.BatchNorm2d(o))

    def forward(self, x):
        identity = x if self.downsample is None else self.downsample(x)
        out = self.lif1(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return self.lif2(out + identity)


@written(analog(B, 2, 5, 5))
class SpikingResNet(nn.Module):
    def __init__(self, **kwargs):
        super().__init__()
        self.cfg = SimpleNamespace(steps=3, widths=[3, 4], lif=lambda: neuron.KLIFNode(tau=2.0, **kwargs))
        self.stem = nn.Conv2d(2, 3, 3, padding=1)
        blocks, width = [], 3
        for w in self.cfg.widths:
            blocks.append(Residual(self.cfg.lif, width, w, stride=1 if w == width else 2))
            width = w
        self.blocks = nn.Sequential(*blocks)
        self.gap = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(width, 3)

    def forward_once(self, x):
        return self.fc(self.gap(self.blocks(x)).flatten(1))

    def forward(self, x):
        functional.reset_net(self)
        current = self.stem(x)
        return torch.stack([self.forward_once(current) for _ in range(self.cfg.steps)]).mean(0)


@written(events(B, 1, 6, T))
class LocalAttentionOverTokens(nn.Module):
    def __init__(self):
        super().__init__()
        self.proj = nn.Conv1d(1, 4, 3, padding=1)
        self.lif = neuron.LIFNode(tau=2.0)
        self.attn = nn.Linear(4, 1)
        self.out_lif = neuron.CUBALIFNode(c_decay=0.5, v_decay=0.5)
        self.out = nn.Linear(4, 3)

    def forward(self, x):
        functional.reset_net(self)
        outs = []
        for t in range(x.shape[-1]):
            s = self.lif(self.proj(x[..., t])).transpose(1, 2)
            a = torch.softmax(self.attn(s), dim=1)
            outs.append(self.out_lif(self.out((a * s).sum(dim=1))))
        return torch.stack(outs, dim=-1)


@written(events(T, B, 6), refused=r"(?i)time")
class MixesTimesteps(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1 = layer.Linear(6, 8, step_mode="m")
        self.lif1 = neuron.LIFNode(step_mode="m")
        self.temporal = nn.Linear(T, T)
        self.fc2 = layer.Linear(8, 3, step_mode="m")
        self.lif2 = neuron.LIFNode(step_mode="m")

    def forward(self, x):
        x = self.lif1(self.fc1(x))
        x = x * torch.sigmoid(self.temporal(x.mean(2).t())).t().unsqueeze(-1)
        return self.lif2(self.fc2(x)).mean(0)


@written(events(B, T, 1, 4, 4))
class FunctionalForms(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 4, 2, stride=2), nn.GroupNorm(2, 4)
        self.lif1 = neuron.QIFNode(tau=2.0, v_c=0.2, a0=0.5)
        self.fc = nn.Linear(16, 3)
        self.lif2 = neuron.LIFNode(tau=1.5, decay_input=False, v_reset=None)

    def forward(self, x):
        x_seq = torch.swapaxes(x, 0, 1)
        x_seq = functional.seq_to_ann_forward(x_seq, [self.conv, self.norm])
        x_seq = functional.multi_step_forward(x_seq, self.lif1)
        x_seq = functional.seq_to_ann_forward(x_seq, [nn.Flatten(), self.fc])
        return functional.multi_step_forward(x_seq, self.lif2).mean(0)


class AdaptiveNode(neuron.SimpleBaseNode):
    def __init__(self, tau=2.0, **kwargs):
        super().__init__(**kwargs)
        self.tau = nn.Parameter(torch.tensor(tau))
        self.register_memory("w", 0.0)

    def neuronal_charge(self, x):
        self.v = self.v + (x - self.v - self.w) / self.tau

    def neuronal_reset(self, spike):
        super().neuronal_reset(spike)
        self.w = 0.7 * self.w + 0.2 * spike


@written(events(T, B, 6), time="outside")
class OwnNode(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(6, 8), nn.Linear(8, 3)
        self.sn1 = AdaptiveNode(surrogate_function=surrogate.ATan())
        self.sn2 = AdaptiveNode(surrogate_function=surrogate.ATan(), v_reset=None)

    def forward(self, x):
        return self.sn2(self.fc2(self.sn1(self.fc1(x))))


@written(events(T, B, 6), optional=True)
class ParallelNeurons(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1, self.fc2 = layer.Linear(6, 8, step_mode="m"), layer.Linear(8, 3, step_mode="m")
        self.psn = neuron.PSN(T)
        self.lif = neuron.LIFNode(step_mode="m")

    def forward(self, x):
        return self.lif(self.fc2(self.psn(self.fc1(x)))).mean(0)


# ------------------------------------------------------------------- SpikingJelly's model zoo, narrow and shallow

LIF = dict(spiking_neuron=neuron.LIFNode, surrogate_function=surrogate.ATan(), detach_reset=True)


@written(analog(B, 1, 8, 8), group=None)
def zoo_spikformer():
    sizes = dict(T=2, in_channels=1, img_size_h=8, img_size_w=8, patch_size=4)
    return spikformer.Spikformer(**sizes, num_classes=3, embed_dims=16, num_heads=2, depths=1, **LIF)


@written(analog(B, 1, 16, 16), group=None)
def zoo_qkformer():
    return qkformer.QKFormer(2, 1, 3, embed_dims=16, num_heads=(1, 2, 2), depths=(1, 1, 1), **LIF)


@written(analog(B, 1, 16, 16), group=None)
def zoo_spike_driven_transformer():
    return spike_driven_transformer.SpikeDrivenTransformer(
        2, 1, 3, embed_dims=16, num_heads=2, depths=1, **LIF
    )


@written(analog(B, 1, 16, 16), group=None)
def zoo_maxformer():
    return maxformer.MaxFormer(2, 1, 3, embed_dims=16, depths=(1, 1, 1), **LIF)


@written(analog(B, 1, 16, 16), group=None)
def zoo_ms_resnet():
    return ms_resnet.MSResNet(2, 1, 3, layers=(1, 1, 1, 1), base_channels=4, **LIF)


@written(analog(2, B, 3, 8, 8), group=None)
def zoo_vgg():
    features = spiking_vgg.SpikingVGG.make_layers([4, "M", 6, 6, "M"], True, neuron=neuron.LIFNode)
    net = nn.Sequential(features, layer.AdaptiveAvgPool2d(1), layer.Flatten(), layer.Linear(6, 3))
    functional.set_step_mode(net, "m")
    return net


@written(analog(2, 1, 3, 8, 8), group=None)
def zoo_sew_resnet():
    net = sew_resnet.SEWResNet(sew_resnet.BasicBlock, [1, 1, 1, 1], num_classes=3, cnf="ADD", **LIF)
    functional.set_step_mode(net, "m")
    return net


@written(analog(2, 1, 3, 8, 8), group=None)
def zoo_spiking_resnet():
    net = spiking_resnet.SpikingResNet(spiking_resnet.BasicBlock, [1, 1, 1, 1], num_classes=3, **LIF)
    functional.set_step_mode(net, "m")
    return net
