"""Clipping by norms: of all gradients together (as torch does it), of each, of groups of them.

Law: with :class:`GlobalNorm` weights after a step are bit-identical to
``torch.nn.utils.clip_grad_norm_``, its foreach path and its plain one. On a CPU a coefficient of
exactly 1 is not multiplied in: a step that clips nothing needs one read of the gradients and no
write.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Final

import torch
from torch import Tensor, optim

from .base import COUNT, Range, Strategy
from .gradients import Gradients, Outcome, Target
from .sharded import is_sharded

_ROUNDED: Final = 1 + 1e-6
"""More than the four roundings of torch's formula in float32 can make of a norm (2.4e-7)."""


class GlobalNorm(Strategy):
    """g <- g * min(1, max_norm / (norm + 1e-6)), with the norm of all gradients together.

    max_norm: the threshold; finite and above 0.
    norm_type: the p of the p-norm; any float, ``inf`` for the largest magnitude.
    exact: with False a fused optimizer (SGD, Adam, AdamW or Adagrad with ``fused=True``) divides by
    1 / coefficient while it reads the gradients, which saves a pass over them on clipped steps.
    That rounds differently: gradients differ from torch's by up to 2e-6 of their size, and are
    clipped only once the step is taken. What is recorded is the same.
    nonfinite: see :class:`Strategy`; with ``"propagate"`` one infinite gradient makes the finite
    ones zero and itself NaN, and one NaN makes all NaN, as in torch.

    Source: Pascanu, Mikolov and Bengio, "On the difficulty of training recurrent neural networks",
    2013; torch/nn/utils/clip_grad.py.
    """

    threshold_name: ClassVar[str | None] = "max_norm"
    takes_sharded: ClassVar[bool] = True

    def __init__(
        self,
        max_norm: float,
        norm_type: float = 2.0,
        *,
        exact: bool = True,
        nonfinite: str = "propagate",
    ) -> None:
        super().__init__(max_norm=max_norm, nonfinite=nonfinite)
        if not isinstance(exact, bool):
            raise TypeError(f"exact must be True or False, not {type(exact).__name__}")
        self.norm_type = _norm_type(norm_type)
        self.exact = exact
        self.folds = not exact
        self.other_norm = self.norm_type != 2.0

    def __repr__(self) -> str:
        exact = "" if self.exact else ", exact=False"
        return f"{self.name}({self.threshold!r}, norm_type={self.norm_type!r}{exact})"

    def bind(self, targets: Sequence[Target], optimizer: optim.Optimizer | None = None) -> None:
        super().bind(targets, optimizer)
        if self.folds and not _divides(optimizer):
            kind = (
                "there is none" if optimizer is None else f"this {type(optimizer).__name__} cannot"
            )
            raise ValueError(
                "exact=False needs an optimizer that divides the gradients in its own step (SGD, "
                f"Adam, AdamW or Adagrad, made with fused=True); {kind}"
            )
        if self.folds:
            for target in targets:
                if is_sharded(target.parameter):
                    raise ValueError(
                        f"exact=False is for whole gradients, and {target.name} is sharded; "
                        "use exact=True"
                    )

    def clip(self, grads: Gradients) -> Outcome:
        max_norm = self._values["max_norm"]
        norms, total = grads.norm(self.norm_type)
        norm = total.item()
        if (norm + 1e-6) * _ROUNDED <= max_norm:  # however torch rounds, its coefficient is 1
            return Outcome(norms, total, threshold=max_norm, coefficient=1.0, post_norm=norm)
        # This line is torch's own; another order of operations rounds differently.
        coefficient = torch.clamp(max_norm / (total + 1e-6), max=1.0)
        factor = coefficient.item() if self.folds else grads.scale(coefficient)
        return Outcome(
            norms,
            total,
            threshold=max_norm,
            coefficient=factor,
            post_norm=norm * factor,
            changed=factor < 1.0,
            factor=coefficient if self.folds else None,
            folded=self.folds and factor != 1.0,
        )


class Observe(GlobalNorm):
    """Measures and changes nothing, until somebody sets a ``max_norm``.

    Not for scripts: ``attach`` uses it when no clipping is asked for.
    """

    def __init__(self) -> None:
        super().__init__(1.0)
        self._values = {}

    def accepts(self, name: str) -> bool:
        return name == "max_norm"

    def reset(self, values: Mapping[str, float]) -> None:
        if values:
            super().reset(values)
        else:  # back to watching
            self._values = {}

    def clip(self, grads: Gradients) -> Outcome:
        if self._values:
            return super().clip(grads)
        norms, total = grads.norm(self.norm_type)
        return Outcome(norms, total, post_norm=total.item())


class PerParameterNorm(Strategy):
    """g_i <- g_i * min(1, max_norm / norm_i): each parameter by its own norm.

    max_norm: the threshold of each. To bound the norm of all by c, take c / sqrt(n).

    Source: TensorFlow's ``clip_by_norm`` and Keras' ``clipnorm``; agrees with the latter to
    rounding.
    """

    threshold_name: ClassVar[str | None] = "max_norm"
    takes_sharded: ClassVar[bool] = True
    per_parameter: ClassVar[bool] = True
    one_by_one: ClassVar[bool] = True

    def __init__(self, max_norm: float, *, nonfinite: str = "propagate") -> None:
        super().__init__(max_norm=max_norm, nonfinite=nonfinite)

    def clip(self, grads: Gradients) -> Outcome:
        max_norm = self._values["max_norm"]
        return grads.by_norms(within(grads.norms, max_norm), max_norm)


class PerModuleNorm(Strategy):
    """g_i <- g_i * min(1, max_norm / norm_m), with the common norm of the module's gradients.

    max_norm: the threshold of each module.
    depth: how many parts of a parameter's dotted name make its module: with 1
    ``encoder.0.weight`` belongs to ``encoder``, with 2 to ``encoder.0``. The last part of the name
    never counts. ``depth`` is a named value as well.
    """

    threshold_name: ClassVar[str | None] = "max_norm"
    takes_sharded: ClassVar[bool] = True
    per_parameter: ClassVar[bool] = True
    ranges: ClassVar[Mapping[str, Range]] = {"depth": COUNT}

    def __init__(self, max_norm: float, depth: int = 1, *, nonfinite: str = "propagate") -> None:
        super().__init__(max_norm=max_norm, depth=depth, nonfinite=nonfinite)
        self._names: list[list[str]] = []

    def bind(self, targets: Sequence[Target], optimizer: optim.Optimizer | None = None) -> None:
        super().bind(targets, optimizer)
        self._names = [target.name.split(".")[:-1] or [target.name] for target in targets]

    def clip(self, grads: Gradients) -> Outcome:
        max_norm, depth = self._values["max_norm"], int(self._values["depth"])
        places = range(len(grads)) if grads.places is None else grads.places
        modules: dict[tuple[str, ...], int] = {}
        home = torch.tensor(
            [modules.setdefault(tuple(self._names[p][:depth]), len(modules)) for p in places],
            device=grads.norms.device,
        )
        # The scale keeps squares from overflowing; 0 and non-finite norms need none.
        scale = grads.norms.max()
        if not (bool(torch.isfinite(scale)) and scale > 0):
            scale = torch.ones_like(scale)
        squares = grads.norms.new_zeros(len(modules)).index_add_(
            0, home, (grads.norms / scale).square()
        )
        return grads.by_norms(within(squares.sqrt()[home] * scale, max_norm), max_norm)


class BlockRMS(Strategy):
    """g_i <- g_i / max(1, RMS(g_i) / threshold): each parameter by its root mean square.

    threshold: 1.0 in Adafactor, where it is applied to the update. Independent of a parameter's
    size, unlike a norm. A sparse gradient's mean is over the whole parameter.

    Source: Shazeer and Stern, "Adafactor", 2018; optax ``clip_by_block_rms``.
    """

    threshold_name: ClassVar[str | None] = "threshold"
    takes_sharded: ClassVar[bool] = True
    per_parameter: ClassVar[bool] = True
    one_by_one: ClassVar[bool] = True

    def __init__(self, threshold: float = 1.0, *, nonfinite: str = "propagate") -> None:
        super().__init__(threshold=threshold, nonfinite=nonfinite)

    def clip(self, grads: Gradients) -> Outcome:
        threshold = self._values["threshold"]
        sizes = torch.tensor([max(1, p.numel()) for p in grads.parameters], dtype=torch.float64)
        roots = sizes.sqrt().to(grads.norms)
        coefficients = 1 / torch.clamp(grads.norms / roots / threshold, min=1.0)
        return grads.by_norms(coefficients, threshold)


class SoftNorm(Strategy):
    """Smooth clipping by the common norm n: the direction stays, the length saturates at max_norm.

    kind: ``"rational"``: g <- g * max_norm / (max_norm + n); ``"tanh"``:
    g <- g * max_norm * tanh(n / max_norm) / n. Both shorten every step a little; tanh leaves small
    gradients nearly alone.

    Source: Zhang, He, Sra and Jadbabaie, "Why gradient clipping accelerates training", 2020.
    """

    threshold_name: ClassVar[str | None] = "max_norm"
    takes_sharded: ClassVar[bool] = True

    def __init__(
        self, max_norm: float, kind: str = "rational", *, nonfinite: str = "propagate"
    ) -> None:
        super().__init__(max_norm=max_norm, nonfinite=nonfinite)
        if kind not in ("rational", "tanh"):
            raise ValueError(f"kind is {kind!r}; accepted: 'rational', 'tanh'")
        self.kind = kind

    def __repr__(self) -> str:
        return f"{self.name}({self.threshold!r}, kind={self.kind!r})"

    def clip(self, grads: Gradients) -> Outcome:
        max_norm, total = self._values["max_norm"], grads.global_norm
        if self.kind == "rational":
            coefficient = max_norm / (max_norm + total)
        else:
            ratio = total / max_norm
            coefficient = torch.where(ratio > 0, torch.tanh(ratio) / ratio, torch.ones_like(ratio))
        return grads.by_norm(max_norm, coefficient)


class Normalize(Strategy):
    """g <- scale * g / (n + beta): every step gets (nearly) the length ``scale``.

    Not a clip: small gradients are made larger. ``beta`` (0 or more) damps that.

    Source: normalized gradient descent; Zhang et al. 2020, section 3.
    """

    threshold_name: ClassVar[str | None] = "scale"
    takes_sharded: ClassVar[bool] = True
    ranges: ClassVar[Mapping[str, Range]] = {"beta": Range(0, low_in=True)}

    def __init__(
        self, scale: float = 1.0, beta: float = 1e-8, *, nonfinite: str = "propagate"
    ) -> None:
        super().__init__(scale=scale, beta=beta, nonfinite=nonfinite)

    def clip(self, grads: Gradients) -> Outcome:
        scale, length = self._values["scale"], grads.global_norm + self._values["beta"]
        # Gradients that are all zero stay so, with beta=0 too.
        coefficient = torch.where(length == 0, torch.ones_like(length), scale / length)
        return grads.by_norm(scale, coefficient)


def within(norms: Tensor, limit: float | Tensor) -> Tensor:
    """[n]: the factors that bring ``norms`` down to ``limit``, exactly 1 for those within it."""
    return torch.where(norms > limit, limit / norms, torch.where(norms.isnan(), norms, 1.0))


def _divides(optimizer: optim.Optimizer | None) -> bool:
    """Whether ``optimizer`` looks at ``grad_scale``, as it does under a GradScaler."""
    return getattr(optimizer, "_step_supports_amp_scaling", False) and all(
        group.get("fused") for group in getattr(optimizer, "param_groups", ())
    )


def _norm_type(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise TypeError(f"norm_type must be a number or 'inf', not {type(value).__name__}")
    try:
        number = float(value)
    except ValueError:
        raise ValueError(f"norm_type must be a number or 'inf', not {value!r}") from None
    if number != number:
        raise ValueError("norm_type must be a number or 'inf', not nan")
    return number
