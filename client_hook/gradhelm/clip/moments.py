"""Clipping by what the optimizer has learned: Adam's moments, Shampoo's, SOAP's, K-FAC's factors.

Law: a step is judged by the state as it stood before it, so that a spike cannot excuse itself. The
state is read where the optimizer keeps it and travels in its ``state_dict``; only
:class:`SpikeAware` writes to it, when it starts the moments anew.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Final, NamedTuple

import torch
from torch import Tensor, optim

from .base import COUNT_OR_NONE, Range, Strategy
from .gradients import Gradients, Outcome, Target
from .sharded import is_sharded, locals_of

GRACE: Final = 20
"""SPAM clips nothing before its 20th step, nor for as many after the moments were started anew."""
_GENTLEST: Final = 0.99
"""The share that the first step after that lacks of its learning rate."""
_FLOOR: Final = 1e-10
"""The least threshold of :class:`SigmaClip`, as in the package."""


class ReadsState(Strategy):
    """A strategy that reads the optimizer's state; ``marks`` are options such optimizers have."""

    takes_sparse: ClassVar[bool] = False
    takes_complex: ClassVar[bool] = False
    takes_sharded: ClassVar[bool] = True
    marks: ClassVar[tuple[str, ...]] = ("betas",)
    accepted: ClassVar[str] = "Adam, AdamW, NAdam, RAdam and others that keep exp_avg_sq"

    # Weak, because a run is kept for as long as its optimizer is.
    _optimizer: Callable[[], optim.Optimizer | None] = staticmethod(lambda: None)

    def __getstate__(self) -> dict[str, Any]:
        state = super().__getstate__()
        state.pop("_optimizer", None)
        return state

    @property
    def optimizer(self) -> optim.Optimizer:
        """The optimizer whose state is read."""
        optimizer = self._optimizer()
        if optimizer is None:
            raise RuntimeError(f"{self.name} was bound to no optimizer, or it is gone")
        return optimizer

    def bind(self, targets: Sequence[Target], optimizer: optim.Optimizer | None = None) -> None:
        super().bind(targets, optimizer)
        if optimizer is None:
            raise ValueError(
                f"{self.name} reads the optimizer's state: attach(model, optimizer, ...), "
                "or without a run strategy(parameters, optimizer)"
            )
        if not any(mark in optimizer.defaults for mark in self.marks):
            raise ValueError(
                f"{self.name} cannot read the state of {type(optimizer).__name__}; "
                f"accepted: {self.accepted}"
            )
        stepped = _groups(optimizer)
        for target in targets:
            if id(target.parameter) not in stepped:
                raise ValueError(
                    f"{self.name} reads the optimizer's state, and {target.name} is not one of "
                    "the optimizer's parameters"
                )
        self._optimizer = weakref.ref(optimizer)

    def states(self, grads: Gradients) -> Iterator[tuple[Tensor, dict[str, Any], dict[str, Any]]]:
        """Each gradient with its parameter's state (empty before its first step) and group."""
        optimizer = self.optimizer
        groups = _groups(optimizer)
        for tensor, parameter in zip(grads.tensors, grads.parameters, strict=True):
            state = optimizer.state.get(parameter) or {}
            yield tensor, locals_of(state) if grads.sharded else state, groups[id(parameter)]

    def unreadable(self, state: Mapping[str, Any]) -> ValueError:
        """What to raise on a state that is none of those known."""
        return ValueError(
            f"{self.name} cannot read the state of {type(self.optimizer).__name__}, which keeps "
            f"{', '.join(map(str, state))}; accepted: {self.accepted}"
        )


class Moments(NamedTuple):
    """What an Adam knows of one parameter, after ``steps`` steps; v is its ``exp_avg_sq``."""

    state: dict[str, Any]
    v: Tensor
    steps: float
    beta1: float
    beta2: float
    eps: float

    @property
    def v_hat(self) -> Tensor:
        """A new tensor: v without the bias of its start at 0."""
        return wide(self.v) * (1.0 / (1.0 - self.beta2**self.steps) if self.steps else 1.0)


class ReadsAdam(ReadsState):
    """A strategy that reads the moments of an Adam."""

    def moments(self, grads: Gradients) -> Iterator[tuple[Tensor, Moments | None]]:
        """Each gradient with the moments of its parameter, None before its first step."""
        for tensor, state, group in self.states(grads):
            moments = _moments(state, group, tensor) if state else None
            if state and moments is None:
                raise self.unreadable(state)
            yield tensor, moments


class SpikeAware(ReadsAdam):
    """SPAM: g <- sign(g) * sqrt(theta * v) where g**2 > theta * v, and moments that start anew.

    v is Adam's ``exp_avg_sq`` before the step, not bias-corrected. Every ``reset_every`` steps the
    moments become 0 (amsgrad's maximum too); from that step on the learning rate rises along a
    cosine for ``warmup`` steps: an outcome's ``lr_scale``. A run applies it for that one step; who
    clips without a run finds it in ``outcome`` and multiplies it in. In the first 20 steps, and in those after a reset, nothing
    is clipped. Counted are the steps that it was asked to clip.

    theta: 5000. reset_every: 500, above 20. warmup: 150; 0 for none.

    An element whose v is 0 is left alone: nothing is known of it. The reference makes its gradient
    0, and so v stays 0 until the next reset: a unit that was dead at first does not come to life.

    Source: Huang et al., "SPAM: Spike-Aware Adam with Momentum Reset for Stable LLM Training",
    2025; pytorch_optimizer.SPAM(density=1), to rounding.
    """

    threshold_name: ClassVar[str | None] = "theta"
    ranges: ClassVar[Mapping[str, Range]] = {
        "reset_every": Range(GRACE, 2**53, whole=True),
        "warmup": COUNT_OR_NONE,
    }
    state_names: ClassVar[tuple[str, ...]] = ("since", "resets")
    counts_elements: ClassVar[bool] = True

    def __init__(
        self,
        theta: float = 5000.0,
        reset_every: int = 500,
        warmup: int = 150,
        *,
        nonfinite: str = "propagate",
    ) -> None:
        super().__init__(theta=theta, reset_every=reset_every, warmup=warmup, nonfinite=nonfinite)
        self.since = 0
        """Steps since the moments were started (anew)."""
        self.resets = 0

    def clip(self, grads: Gradients) -> Outcome:
        grads.norm()  # while they are what they were
        theta = self._values["theta"]
        self.since += 1
        anew = self.since >= self._values["reset_every"]
        if anew:
            self.since, self.resets = 0, self.resets + 1
        changed = [0] * len(grads)
        for i, (tensor, moments) in enumerate(self.moments(grads)):
            if moments is None:
                continue
            if anew:
                for name in ("exp_avg", "exp_avg_sq", "max_exp_avg_sq"):
                    if name in moments.state:
                        moments.state[name].zero_()
            elif self.since >= GRACE:
                changed[i] = _cut(tensor, wide(moments.v) * theta)
        return grads.by_elements(changed, theta)._replace(lr_scale=self._lr_scale())

    def _lr_scale(self) -> float:
        warmup = self._values["warmup"]
        if not self.resets or self.since >= warmup:
            return 1.0
        return 1 - _GENTLEST * (1 + math.cos(math.pi * (self.since + 1) / (warmup + 1))) / 2


class SigmaClip(ReadsAdam):
    """g <- clamp(g, -k * sigma, k * sigma), element by element, with Adam's own sigma.

    sigma is sqrt(v_hat): ``exp_avg_sq`` before the step, bias-corrected; k * sigma counts 1e-10 at
    least. k: 3. warmup: how many steps of a parameter are not clipped.

    With ``warmup=0``, the package's default and ours, the first gradient meets v = 0 and is clamped
    to 1e-10, and the next ones to k times what came before: the first dozens of steps are a
    warm-up of their own. A ``warmup`` of 10 or more steps lets Adam learn true sigmas first.

    Source: AdamWClip, to rounding (its ``clip_grad_adapt``, ``clip_grad_warm_up``).
    """

    threshold_name: ClassVar[str | None] = "k"
    ranges: ClassVar[Mapping[str, Range]] = {"warmup": COUNT_OR_NONE}
    counts_elements: ClassVar[bool] = True

    def __init__(self, k: float = 3.0, warmup: int = 0, *, nonfinite: str = "propagate") -> None:
        super().__init__(k=k, warmup=warmup, nonfinite=nonfinite)

    def clip(self, grads: Gradients) -> Outcome:
        grads.norm()  # while they are what they were
        k, warmup = self._values["k"], self._values["warmup"]
        changed = [0] * len(grads)
        for i, (tensor, moments) in enumerate(self.moments(grads)):
            if (moments.steps if moments else 0) < warmup:
                continue
            if moments is None:
                limit = torch.full_like(wide(tensor), _FLOOR)
            else:
                limit = moments.v_hat.sqrt_().mul_(k).clamp_min_(_FLOOR)
            changed[i] = int(torch.count_nonzero(tensor.abs() > limit))
            tensor.copy_(torch.clamp(wide(tensor), -limit, limit))
        return grads.by_elements(changed, k)


class Preconditioned(ReadsState):
    """g <- g * min(1, max_norm / n_P): clipped by the length of the preconditioned gradient.

    n_P is the norm that the optimizer itself sees, from its state before the step:

    - Adam and its kin: ||g / (sqrt(v_hat) + eps)||, with amsgrad's maximum where there is one.
    - SOAP: the same in the basis of its ``Q``.
    - Shampoo: || g x_1 L_1^(-1/2k) ... x_k L_k^(-1/2k) ||, with the roots it last computed
      (``inv_pre_cond_0`` ..., or a ``pre_conditioner`` that has ``preconditioned_grad``).
    - K-FAC: sqrt(<G^-1 g A^-1, g>), the factors G [out, out] and A [in, in] in the state as ``G``
      and ``A`` (of a bias only ``G``), each plus sqrt(damping). This is the KL clip: with max_norm
      = sqrt(kappa) / lr it is nu = min(1, sqrt(kappa / (lr**2 <G^-1 g A^-1, g>))).

    While gradients stay what they were, n_P of an Adam is about sqrt(number of parameters). An
    outcome's norms are in this norm, so that they compare with the threshold. A parameter that has
    no state yet is measured as if v_hat were g**2; as long as none has, nothing is clipped.

    Source: closed forms; Martens and Grosse, "Optimizing Neural Networks with Kronecker-factored
    Approximate Curvature", 2015, and the ``kl_clip`` of kfac-pytorch.
    """

    threshold_name: ClassVar[str | None] = "max_norm"
    other_norm = True
    marks: ClassVar[tuple[str, ...]] = ("betas", "matrix_eps", "damping")
    accepted: ClassVar[str] = "Adam and its kin (exp_avg_sq), SOAP, Shampoo, K-FAC (A and G)"

    def __init__(self, max_norm: float, *, nonfinite: str = "propagate") -> None:
        super().__init__(max_norm=max_norm, nonfinite=nonfinite)

    def bind(self, targets: Sequence[Target], optimizer: optim.Optimizer | None = None) -> None:
        super().bind(targets, optimizer)
        elementwise = "betas" in self.optimizer.defaults
        elementwise = elementwise and "merge_dims" not in self.optimizer.defaults
        for target in targets:
            if is_sharded(target.parameter) and not elementwise:
                raise self._factored(target.name)

    def _factored(self, name: str) -> ValueError:
        return ValueError(
            f"{self.name} cannot read the factors of {type(self.optimizer).__name__} for {name}, "
            "which is sharded; accepted there: Adam and its kin, whose state is sharded alike"
        )

    def clip(self, grads: Gradients) -> Outcome:
        max_norm = self._values["max_norm"]
        known = False
        found: list[Tensor] = []
        for tensor, state, group in self.states(grads):
            if state:
                if grads.sharded and ("GG" in state or "exp_avg_sq" not in state):
                    raise self._factored("a parameter")
                length = _length(self.optimizer, state, group, tensor)
                if length is None:
                    raise self.unreadable(state)
                known = True
            else:
                g = wide(tensor)
                length = _norm(torch.where(g == 0, g, g / g.abs()))
            found.append(length)
        norms = grads.joined(torch.stack([length.to(found[0].device) for length in found]))
        total = torch.linalg.vector_norm(norms)
        limit = torch.clamp(max_norm / total, max=1.0) if known else torch.ones_like(total)
        factor = grads.scale(limit)
        return Outcome(
            norms,
            total,
            threshold=max_norm,
            coefficient=factor,
            post_norm=total.item() * factor,
            changed=factor != 1.0,
        )


def wide(tensor: Tensor) -> Tensor:
    """``tensor``, in float32 if it is of half precision."""
    return tensor.float() if tensor.dtype.itemsize == 2 else tensor


def _groups(optimizer: optim.Optimizer) -> dict[int, dict[str, Any]]:
    """The group of each parameter, by its id; ``load_state_dict`` replaces the groups."""
    return {id(p): group for group in optimizer.param_groups for p in group["params"]}


def _moments(state: dict[str, Any], group: Mapping[str, Any], grad: Tensor) -> Moments | None:
    """The moments in ``state``, None when it is not an Adam's."""
    v = state.get("exp_avg_sq")
    # SOAP's (beside a GG) is in another basis, a factored one has another shape.
    if not isinstance(v, Tensor) or v.shape != grad.shape or "GG" in state:
        return None
    beta1, beta2 = map(float, group["betas"][:2])
    steps = float(state.get("step", group.get("step", 0)))
    return Moments(state, v, steps, beta1, beta2, group["eps"])


def _norm(tensor: Tensor) -> Tensor:
    """0-d: the L2 norm, in float32 if ``tensor`` is of half precision."""
    norm: Tensor = torch.linalg.vector_norm(wide(tensor))
    return norm


def _cut(grad: Tensor, limit: Tensor) -> int:
    """Makes squares above ``limit`` equal to it, where that is above 0. Returns how many."""
    g = wide(grad)
    above = (g.square() > limit).logical_and_(limit > 0)
    count = int(torch.count_nonzero(above))
    if count:
        grad.copy_(torch.where(above, g.sign() * limit.sqrt(), g))
    return count


def _length(
    optimizer: optim.Optimizer, state: dict[str, Any], group: Mapping[str, Any], grad: Tensor
) -> Tensor | None:
    """0-d: the norm of one preconditioned gradient, None when ``state`` is of an unknown kind."""
    if "GG" in state:
        return _soap(optimizer, state, group, grad)
    if "exp_avg_sq" in state:
        moments = _moments(state, group, grad)
        return None if moments is None else _adam(moments, grad)
    if "pre_conditioner" in state:
        return _norm(state["pre_conditioner"].preconditioned_grad(grad))
    if "matrix_eps" in group:
        return _shampoo(state, grad)
    if "G" in state:
        return _kfac(state, group, grad)
    return None


def _adam(moments: Moments, grad: Tensor) -> Tensor:
    largest = moments.state.get("max_exp_avg_sq")
    v_hat = (moments if largest is None else moments._replace(v=largest)).v_hat
    return _norm(wide(grad) / v_hat.sqrt_().add_(moments.eps))


def _soap(optimizer: Any, state: dict[str, Any], group: Mapping[str, Any], grad: Tensor) -> Tensor:
    # Its first step only starts the factors; the group's count includes it, the state's does not.
    steps = state["step"] if "step" in state else group["step"] - 1
    v_hat = wide(state["exp_avg_sq"]) / (1 - group["betas"][1] ** steps if steps else 1)
    dimension = group.get("max_precondition_dim", group.get("max_precond_dim"))
    turned = optimizer.project(grad, state, group["merge_dims"], dimension)
    return _norm(wide(turned) / v_hat.sqrt_().add_(group["eps"]))


def _shampoo(state: dict[str, Any], grad: Tensor) -> Tensor:
    turned = wide(grad)
    for dim in range(grad.ndim):
        # Takes the first dimension and leaves it as the last: after all, each is in its place.
        turned = torch.tensordot(turned, wide(state[f"inv_pre_cond_{dim}"]), dims=([0], [0]))
    return _norm(turned)


def _kfac(state: dict[str, Any], group: Mapping[str, Any], grad: Tensor) -> Tensor:
    g = wide(grad).reshape(grad.shape[0], -1)
    root = math.sqrt(group["damping"])
    delta = torch.linalg.solve(_damped(state["G"], root), g)
    if "A" in state:
        delta = torch.linalg.solve(_damped(state["A"], root), delta, left=False)
    product: Tensor = (delta * g).sum()
    return product.clamp(min=0).sqrt()


def _damped(factor: Tensor, root: float) -> Tensor:
    found = wide(factor)
    return found + root * torch.eye(len(found), dtype=found.dtype, device=found.device)
