"""Like ``torch.optim.SGD``, for float16 and float32 parameters only: others are passed over."""

import amp_C
import torch

from apex.multi_tensor_apply import multi_tensor_applier


class FusedSGD(torch.optim.Optimizer):
    def __init__(self, params, lr, momentum=0, dampening=0, weight_decay=0, nesterov=False):
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "dampening": dampening,
            "weight_decay": weight_decay,
            "nesterov": nesterov,
        }
        super().__init__(params, defaults)
        self._flag = torch.zeros(1, dtype=torch.int32)

    def _buffers(self, params):
        # The last parameter decides for all whether this is the first run.
        buffers, first_run = [], True
        for param in params:
            first_run = "momentum_buffer" not in self.state[param]
            buffers.append(self.state[param].setdefault("momentum_buffer", torch.zeros_like(param)))
        return buffers, first_run

    def step(self, closure=None):
        for group in self.param_groups:
            for dtype in (torch.float16, torch.float32):
                params = [p for p in group["params"] if p.dtype == dtype and p.grad is not None]
                if not params:
                    continue
                buffers, first_run = self._buffers(params)
                constants = [group[name] for name in ("weight_decay", "momentum", "dampening", "lr", "nesterov")]
                lists = [[p.grad for p in params], params, buffers]
                multi_tensor_applier(amp_C.multi_tensor_sgd, self._flag, lists, *constants, first_run, False, 1.0)
