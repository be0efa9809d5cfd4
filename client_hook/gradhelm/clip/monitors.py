"""Monitors with a rule: they tell what a clip of the update would do, and change no gradient.

An Adam's update hardly depends on the length of the gradient, so a clip of the update cannot be
done by scaling gradients. Who wants it done steps with :class:`UpdateClipped`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, optim

from .gradients import Gradients, Outcome, Target
from .moments import ReadsAdam, ReadsState, wide
from .sharded import reader


class UpdateRMS(ReadsAdam):
    """Tells by what each parameter's learning rate should be divided: max(1, RMS / d).

    RMS is sqrt(mean(g**2 / max(v_hat, eps**2))), with the v_hat that the optimizer will have after
    this step: about 1 while gradients are what v_hat expects, above it when they grow faster than
    v_hat learns. An outcome's ``coefficients`` are the factors 1 / max(1, RMS / d); gradients stay
    as they are. Coupled weight decay, which Adam adds to the gradient later, is not seen.

    d: 1.0.

    Source: Shazeer and Stern, "Adafactor", 2018; Wortsman et al., "Stable and low-precision
    training for large-scale vision-language models", 2023; pytorch_optimizer.StableAdamW.
    """

    threshold_name: ClassVar[str | None] = "d"
    per_parameter: ClassVar[bool] = True

    def __init__(self, d: float = 1.0, *, nonfinite: str = "propagate") -> None:
        super().__init__(d=d, nonfinite=nonfinite)

    def clip(self, grads: Gradients) -> Outcome:
        d, first = self._values["d"], grads.norms.device
        sums: list[Tensor] = []
        for tensor, moments in self.moments(grads):
            square = wide(tensor).square()
            if moments is None:
                # v_hat will be g**2, whatever the decay.
                square.div_(torch.where(square == 0, 1.0, square))
            else:
                decayed, beta2 = moments.beta2 ** (moments.steps + 1), moments.beta2
                beta = (decayed - beta2) / (decayed - 1)
                v_hat = moments.v_hat.mul_(beta).add_(square, alpha=1 - beta)
                square.div_(v_hat.clamp_min_(moments.eps**2))
            sums.append(square.sum().to(first))
        means = grads.summed(torch.stack(sums))
        means = means / torch.tensor([max(1, size) for size in grads.sizes]).to(means)
        coefficients = 1 / torch.clamp(means.sqrt() / d, min=1.0)
        return Outcome(
            grads.norms,
            grads.global_norm,
            threshold=d,
            post_norm=grads.global_norm.item(),
            coefficients=coefficients,
        )


class Curvature(ReadsState):
    """Tells the share of elements that Sophia clips in this step: those with |m| > rho * h.

    m is the momentum that the step will use, h the curvature (eps at least) as it was before it;
    where the optimizer renews h within the step, the share is that of the old one. None before
    there is an h. Read are ``momentum`` and ``hessian_moment`` (pytorch_optimizer.SophiaH) or
    ``exp_avg`` and ``hessian`` (SophiaG).

    rho: the optimizer's own; ``p`` of SophiaH (0.01), ``rho`` times the batch's tokens of SophiaG.

    Source: Liu et al., "Sophia: A Scalable Stochastic Second-order Optimizer", 2023.
    """

    threshold_name: ClassVar[str | None] = "rho"
    counts_elements: ClassVar[bool] = True
    accepted: ClassVar[str] = "SophiaH and SophiaG"

    def __init__(self, rho: float, *, nonfinite: str = "propagate") -> None:
        super().__init__(rho=rho, nonfinite=nonfinite)

    def clip(self, grads: Gradients) -> Outcome:
        rho = self._values["rho"]
        above, sizes = [0] * len(grads), grads.sizes
        elements = 0
        for i, (tensor, state, group) in enumerate(self.states(grads)):
            if not state:
                continue
            kind = next((k for k in _CURVATURES if all(name in state for name in k)), None)
            if kind is None:
                raise self.unreadable(state)
            m, h = (wide(state[name]) for name in kind)
            m = torch.lerp(m, wide(tensor), 1 - group["betas"][0])
            limit = h.clamp(min=group.get("eps", 0.0)).mul_(rho)
            above[i] = int(torch.count_nonzero(m.abs() > limit))
            elements += sizes[i]
        return Outcome(
            grads.norms,
            grads.global_norm,
            threshold=rho,
            share=grads.count(above) / elements if elements else None,
            post_norm=grads.global_norm.item(),
        )


_CURVATURES = (("momentum", "hessian_moment"), ("exp_avg", "hessian"))


class UpdateClipped(optim.Optimizer):
    """An Adam whose updates are clipped: each parameter's by max(1, RMS / d) of UpdateRMS.

    optimizer: takes the steps, and keeps the groups and the state. What it does to a parameter,
    decoupled weight decay included, is shortened: the same as a smaller learning rate for that one
    parameter, as in StableAdamW. Parameters that are clipped are copied for the time of the step.

        optimizer = UpdateClipped(torch.optim.AdamW(model.parameters(), betas=(0.9, 0.99)))
    """

    def __init__(self, optimizer: optim.Optimizer, d: float = 1.0) -> None:
        if not isinstance(optimizer, optim.Optimizer):
            raise TypeError(
                f"optimizer must be a torch.optim.Optimizer, not {type(optimizer).__name__}"
            )
        self.optimizer = optimizer
        self.monitor = UpdateRMS(d)
        self._bind()
        # Makes the hooks of an Optimizer; __init__ would make groups and state of our own.
        self.__setstate__({})

    @property
    def param_groups(self) -> list[dict[str, Any]]:  # type: ignore[override]
        """Those of the optimizer."""
        return self.optimizer.param_groups

    @property
    def state(self) -> Any:  # type: ignore[override]
        """That of the optimizer."""
        return self.optimizer.state

    @property
    def defaults(self) -> dict[str, Any]:  # type: ignore[override]
        """Those of the optimizer."""
        return self.optimizer.defaults

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.optimizer, self.monitor["d"])

    def state_dict(self) -> dict[str, Any]:
        """That of the optimizer; ``d`` is not in it."""
        return self.optimizer.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes back what :meth:`state_dict` gave, or that of a bare optimizer."""
        self.optimizer.load_state_dict(state_dict)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Gives the optimizer a further group."""
        self.optimizer.add_param_group(param_group)
        self._bind()

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Takes one step, after ``closure`` where there is one. Returns what that returned."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        with torch.no_grad():
            grads = self._gather([p for group in self.param_groups for p in group["params"]])
            kept = [] if grads is None else self._shortened(grads)
            self.optimizer.step()
            for parameter, before, factor in kept:
                parameter.copy_(torch.lerp(before, parameter, factor))
        return loss

    def _shortened(self, grads: Gradients) -> list[tuple[Tensor, Tensor, float]]:
        coefficients = self.monitor.step(grads).coefficients
        assert coefficients is not None
        return [
            (p, p.detach().clone(), factor)
            for p, factor in zip(grads.parameters, coefficients.tolist(), strict=True)
            if factor != 1.0
        ]

    def _bind(self) -> None:
        parameters = [p for group in self.param_groups for p in group["params"]]
        targets = [Target(str(i), p) for i, p in enumerate(parameters)]
        self._gather = reader(parameters)
        self.monitor.bind(targets, self.optimizer)
