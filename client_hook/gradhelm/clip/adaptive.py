"""Clipping by what was learned of earlier norms: percentiles, averages, outliers.

Law: a step whose norm is not finite teaches nothing. Where the common norm is clipped and
``nonfinite="propagate"``, such gradients get torch's formula, before there is a threshold too: with
any, an infinite norm makes the finite ones zero and a NaN makes all NaN. All that was learned
travels in ``state_dict()``: a run that is stopped and goes on clips as if it had never stopped.
Thresholds are numbers made of norms, so on a GPU each step waits for its norm.
"""

from __future__ import annotations

import math
from array import array
from bisect import bisect_left, insort
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final

import torch
from torch import Tensor, optim

from .base import COUNT, COUNT_OR_NONE, DECAY, SHARE, Range, Strategy
from .gradients import Gradients, Outcome, Target

_OPTIONS: Final = ("adaptive_scaling", "mean", "percentile")
_HUGE: Final = 1e150
"""From here on squares leave float64: such a norm is taken for one that is not finite."""
_SMALLEST: Final = 2.0**-126
"""The smallest normal float32: no gradient needs a lower threshold."""


class AutoClip(Strategy):
    """Clips the common norm to a percentile of all norms so far, this step's included.

    percentile: above 0, at most 100; 10 in the paper. Once norms are stationary about
    ``100 - percentile`` percent of the steps are clipped.
    window: how many of the last norms count; 0 or None: all since the start. All make the threshold
    slow to follow norms that fall for long. As a named value it is a number, 0 for all; made larger
    while training it fills up again, since what fell out of it is forgotten.

    Norms of 0 count, as in the reference. Remembers 16 bytes a step; to learn a norm takes 0.01 ms
    after 100 000 steps and 0.2 ms after a million (0.5 ms with a window of a million).

    Source: Seetharaman, Wichern, Pardo and Le Roux, "AutoClip: Adaptive Gradient Clipping for
    Source Separation Networks", 2020; pseeth/autoclip, with ``numpy.percentile`` to the bit.
    """

    threshold_name: ClassVar[str | None] = "percentile"
    takes_sharded: ClassVar[bool] = True
    ranges: ClassVar[Mapping[str, Range]] = {
        "percentile": Range(0, 100, high_in=True),
        "window": COUNT_OR_NONE,
    }
    state_names: ClassVar[tuple[str, ...]] = ("history",)

    def __init__(
        self,
        percentile: float = 10.0,
        window: int | None = None,
        *,
        nonfinite: str = "propagate",
    ) -> None:
        super().__init__(
            percentile=percentile, window=0 if window is None else window, nonfinite=nonfinite
        )
        self._seen = array("d")
        self._sorted = array("d")

    @property
    def history(self) -> Tensor:
        """[steps], float64: the norms that count, oldest first."""
        return torch.tensor(self._seen, dtype=torch.float64)

    @history.setter
    def history(self, norms: Tensor) -> None:
        self._seen = array("d", norms.tolist())
        self._sorted = array("d", sorted(self._seen))

    @property
    def threshold(self) -> float | None:
        """The percentile of the norms so far, None before the first."""
        return percentile(self._sorted, self["percentile"]) if self._sorted else None

    def clip(self, grads: Gradients) -> Outcome:
        norm = grads.global_norm.item()
        if teaches(norm):
            self._learn(norm)
        return to_norm(grads, self.threshold)

    def _learn(self, norm: float) -> None:
        self._seen.append(norm)
        insort(self._sorted, norm)
        window = int(self["window"])
        surplus = len(self._seen) - window if window else 0
        if surplus == 1:
            del self._sorted[bisect_left(self._sorted, self._seen.pop(0))]
        elif surplus > 1:  # the window was made smaller
            self.history = self.history[-window:]


class TargetFraction(Strategy):
    """Clips a wanted share of the steps: the threshold follows that quantile of the norms.

    Clips the common norm n to C, then C <- C * exp(-eta * ([n <= C] - (1 - fraction))): each step
    within C lowers it a little, each one beyond raises it.

    fraction: the share of steps to be clipped, between 0 and 1.
    eta: how fast C follows, above 0 and at most 1 (0.2 in the paper, which asks for the median).
    initial: where C starts. None: at the first norm above 0; that step is not clipped.

    One number is all it remembers. C stays above 1e-38, so that gradients which were zero for long
    do not lead to a threshold that no factor leads back from.

    Source: Andrew, Thakkar, McMahan and Ramaswamy, "Differentially Private Learning with Adaptive
    Clipping", 2019, section 2.2 (geometric update, without the noise).
    """

    threshold_name: ClassVar[str | None] = "fraction"
    takes_sharded: ClassVar[bool] = True
    ranges: ClassVar[Mapping[str, Range]] = {"fraction": SHARE, "eta": Range(0, 1, high_in=True)}
    state_names: ClassVar[tuple[str, ...]] = ("limit",)

    def __init__(
        self,
        fraction: float = 0.1,
        eta: float = 0.05,
        initial: float | None = None,
        *,
        nonfinite: str = "propagate",
    ) -> None:
        super().__init__(fraction=fraction, eta=eta, nonfinite=nonfinite)
        self.limit = None if initial is None else self.validate("initial", initial)

    @property
    def threshold(self) -> float | None:
        """C, None before the first norm above 0."""
        return self.limit

    def clip(self, grads: Gradients) -> Outcome:
        norm, limit = grads.global_norm.item(), self.limit
        if teaches(norm):
            if limit is None:
                self.limit = max(norm, _SMALLEST) if norm > 0 else None
            else:
                surprise = (norm <= limit) - (1 - self["fraction"])
                self.limit = max(limit * math.exp(-self["eta"] * surprise), _SMALLEST)
        return to_norm(grads, limit)


class ZClip(Strategy):
    """Clips norms that are outliers: z = (n - mean) / (std + 1e-6) above ``z_threshold``.

    Mean and variance start as those of the first ``warmup`` norms, which only ``max_norm`` clips,
    and then are exponential moving averages; of an outlier they take in what it was clipped to.

    z_threshold: 2.5 in the paper.
    alpha: the factor of the moving averages, at least 0 and below 1.
    warmup: how many norms are collected first.
    clip_factor: multiplies the threshold of ``"adaptive_scaling"``; above 0, at most 1.
    max_norm: a ceiling for all steps, in warm-up too; 0 or None: none, as in the paper. The
    reference has 1.0 here.
    clip_option: what outliers are clipped to. ``"adaptive_scaling"``: mean + z_threshold^2 * std /
    z, the lower the further out they are; ``"mean"``: the mean; ``"percentile"``: mean +
    z_threshold * std, which is the reference's ``mode="percentile"``.
    skip_update_on_spike: outliers teach nothing.

    ``threshold`` is the norm beyond which a step is an outlier (or the ceiling, if that is lower);
    an outcome's is, where the step was clipped, what it was clipped to.

    Source: Kumar, Owen, Chowdhury and Guera, "ZClip: Adaptive Spike Mitigation for LLM
    Pre-Training", 2025; agrees with zclip 1.0.0 to rounding.
    """

    threshold_name: ClassVar[str | None] = "z_threshold"
    takes_sharded: ClassVar[bool] = True
    ranges: ClassVar[Mapping[str, Range]] = {
        "alpha": DECAY,
        "warmup": COUNT,
        "clip_factor": Range(0, 1, high_in=True),
        "max_norm": Range(0, low_in=True),
    }
    state_names: ClassVar[tuple[str, ...]] = ("mean", "var", "warmup_norms")

    def __init__(
        self,
        z_threshold: float = 2.5,
        alpha: float = 0.97,
        warmup: int = 25,
        clip_factor: float = 1.0,
        max_norm: float | None = None,
        clip_option: str = "adaptive_scaling",
        *,
        skip_update_on_spike: bool = False,
        nonfinite: str = "propagate",
    ) -> None:
        super().__init__(
            z_threshold=z_threshold,
            alpha=alpha,
            warmup=warmup,
            clip_factor=clip_factor,
            max_norm=0.0 if max_norm is None else max_norm,
            nonfinite=nonfinite,
        )
        if clip_option not in _OPTIONS:
            accepted = ", ".join(map(repr, _OPTIONS))
            raise ValueError(f"clip_option is {clip_option!r}; accepted: {accepted}")
        if not isinstance(skip_update_on_spike, bool):
            raise TypeError(
                f"skip_update_on_spike must be a bool, not {type(skip_update_on_spike).__name__}"
            )
        self.clip_option = clip_option
        self.skip_update_on_spike = skip_update_on_spike
        self.mean: float | None = None
        self.var = 0.0
        self.warmup_norms: list[float] = []

    def __repr__(self) -> str:
        return f"{super().__repr__()[:-1]}, clip_option={self.clip_option!r})"

    @property
    def threshold(self) -> float | None:
        """The norm from which on a step is clipped, None in a warm-up without a ceiling."""
        ceiling = self["max_norm"] or math.inf
        limit = ceiling if self.mean is None else min(ceiling, self._outlier(self.mean))
        return None if limit == math.inf else limit

    def clip(self, grads: Gradients) -> Outcome:
        norm, mean, in_force = grads.global_norm.item(), self.mean, self.threshold
        if not teaches(norm):
            return to_norm(grads, in_force)
        if mean is None:
            self._collect(norm)
            return to_norm(grads, in_force)
        spike = norm > self._outlier(mean)
        aim = self._aim(norm, mean) if spike else norm
        if not (spike and self.skip_update_on_spike):
            self._learn(aim, mean)
        limit = min(aim, self["max_norm"] or math.inf)
        if norm > limit:
            return to_norm(grads, limit)
        return to_norm(grads, None)._replace(threshold=in_force)

    def _outlier(self, mean: float) -> float:
        """The norm beyond which a step is an outlier."""
        room = 0.0 if self.clip_option == "percentile" else 1e-6
        return mean + self["z_threshold"] * (math.sqrt(self.var) + room)

    def _aim(self, norm: float, mean: float) -> float:
        """What the outlier ``norm`` is clipped to."""
        if self.clip_option == "mean":
            return mean
        std, reach = math.sqrt(self.var), self["z_threshold"]
        if self.clip_option == "percentile":
            return mean + reach * std
        z = (norm - mean) / (std + 1e-6)
        return (mean + reach * std / (z / reach)) * self["clip_factor"]

    def _collect(self, norm: float) -> None:
        norms = self.warmup_norms
        norms.append(norm)
        if len(norms) >= self["warmup"]:
            self.mean = mean = sum(norms) / len(norms)
            self.var = sum((n - mean) ** 2 for n in norms) / len(norms)
            self.warmup_norms = []

    def _learn(self, norm: float, mean: float) -> None:
        alpha = self["alpha"]
        self.mean = mean = alpha * mean + (1 - alpha) * norm
        self.var = alpha * self.var + (1 - alpha) * (norm - mean) ** 2


class AdaGC(Strategy):
    """Clips each parameter to a little more than the moving average of its own clipped norms.

    After the warm-up g_i <- g_i * min(1, lambda_rel * gamma_i / n_i), and gamma_i <- beta * gamma_i
    + (1 - beta) * (its norm after clipping). In the warm-up, and on a parameter's first gradient
    whenever that is, the common norm is clipped to ``lambda_abs``, and gamma_i is the smallest norm
    after clipping: a parameter that had a gradient of 0 in the warm-up is all but frozen after it.

    lambda_rel: how far above its average a norm may be. An average can grow by a factor of
    1 + (1 - beta) * (lambda_rel - 1) a step at most: it lags behind norms that rise for good.
    lambda_abs: the threshold of the warm-up.
    beta: the factor of the moving average, at least 0 and below 1.
    warmup: the number of the first step, counted from 1, that comes after the warm-up.

    Source: Wang et al., "AdaGC: Improving Training Stability for Large Language Model Pretraining",
    2025; with torch's Adam it agrees with pytorch_optimizer's AdaGC to rounding.
    """

    threshold_name: ClassVar[str | None] = "lambda_rel"
    takes_sharded: ClassVar[bool] = True
    ranges: ClassVar[Mapping[str, Range]] = {"beta": DECAY, "warmup": COUNT}
    state_names: ClassVar[tuple[str, ...]] = ("gammas", "steps")
    per_parameter: ClassVar[bool] = True
    per_parameter_thresholds: ClassVar[bool] = True

    def __init__(
        self,
        lambda_rel: float = 1.05,
        lambda_abs: float = 1.0,
        beta: float = 0.98,
        warmup: int = 100,
        *,
        nonfinite: str = "propagate",
    ) -> None:
        super().__init__(
            lambda_rel=lambda_rel,
            lambda_abs=lambda_abs,
            beta=beta,
            warmup=warmup,
            nonfinite=nonfinite,
        )
        self.gammas = torch.empty(0, dtype=torch.float64)
        """[targets], float64, on the CPU: the averages, inf where there was no gradient yet."""
        self.steps = 0
        self._targets = 0

    @property
    def threshold(self) -> float | None:
        """``lambda_abs`` in the warm-up; None after it: each parameter has its own."""
        return self["lambda_abs"] if self.steps + 1 < self["warmup"] else None

    def bind(self, targets: Sequence[Target], optimizer: optim.Optimizer | None = None) -> None:
        super().bind(targets, optimizer)
        self.gammas = _fit(self.gammas, len(targets))
        self._targets = len(targets)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        before = self.state_dict()
        super().load_state_dict(state)
        try:
            self.gammas = _fit(self.gammas, self._targets or len(self.gammas))
        except ValueError:
            super().load_state_dict(before)
            raise

    def clip(self, grads: Gradients) -> Outcome:
        in_force = self.threshold
        norms = grads.norms.cpu().double()
        total = grads.global_norm.item()
        gammas = grads.pick(self.gammas)
        # 1e-8 is the reference's, which takes it from Adam.
        limits = self["lambda_rel"] * gammas.clamp(min=1e-8)
        early = gammas.isinf() if in_force is None else torch.ones_like(gammas, dtype=torch.bool)
        common = norms.new_tensor(self["lambda_abs"] / (total + 1e-8)).clamp(max=1.0)
        own = (limits / norms.clamp(min=1e-8)).clamp(max=1.0)
        coefficients = torch.where(early, common, own)
        if teaches(total):
            self.steps += 1
            after = norms * coefficients
            learned = torch.where(
                early, torch.minimum(gammas, after), torch.lerp(gammas, after, 1 - self["beta"])
            )
            self.gammas[slice(None) if grads.places is None else grads.places] = learned
        return grads.by_norms(
            coefficients.to(grads.norms), in_force, torch.where(early, math.nan, limits)
        )


class SkipStep(Strategy):
    """Clips nothing, and skips steps whose common norm is above mean + sigma * std of the last.

    sigma: how many standard deviations (of a sample: divided by n - 1).
    window: of how many norms before this one, at least 20. Nothing is skipped before there are
    max(20, window // 2) norms, this step's included.

    A skipped norm enters the window all the same: one that stays high for good is then taken for
    normal after a while, where otherwise no step would ever be made again. The price is that
    shortly after a spike another one may pass. A norm that is not finite is skipped as well, once
    there are enough norms; before, its gradients stay as they are.

    Source: allenai/OLMo-core ``SkipStepOptimizer``, which also skips norms that are as far below
    the mean, and losses.
    """

    threshold_name: ClassVar[str | None] = "sigma"
    takes_sharded: ClassVar[bool] = True
    ranges: ClassVar[Mapping[str, Range]] = {"window": Range(20, 2**53, low_in=True, whole=True)}
    state_names: ClassVar[tuple[str, ...]] = ("history",)

    def __init__(
        self, sigma: float = 6.0, window: int = 128, *, nonfinite: str = "propagate"
    ) -> None:
        super().__init__(sigma=sigma, window=window, nonfinite=nonfinite)
        self.history: list[float] = []

    @property
    def threshold(self) -> float | None:
        """The norm above which the next step is skipped, None while there are too few norms."""
        window = int(self["window"])
        norms = self.history[-window:]
        if len(norms) + 1 < max(20, window // 2):
            return None
        mean = math.fsum(norms) / len(norms)
        var = math.fsum((n - mean) ** 2 for n in norms) / (len(norms) - 1)
        return mean + self["sigma"] * math.sqrt(var)

    def clip(self, grads: Gradients) -> Outcome:
        norm, limit = grads.global_norm.item(), self.threshold
        if teaches(norm):
            self.history.append(norm)
            del self.history[: -int(self["window"])]
        # So written that NaN is skipped.
        skipped = limit is not None and not norm <= limit
        return Outcome(
            grads.norms,
            grads.global_norm,
            threshold=limit,
            coefficient=None if skipped else 1.0,
            post_norm=None if skipped else norm,
            skipped=skipped,
        )


def teaches(norm: float) -> bool:
    """Whether something may be learned of ``norm``: it is finite, and so is its square."""
    return norm < _HUGE


def to_norm(grads: Gradients, threshold: float | None) -> Outcome:
    """Clips the common norm as torch does; with None only a norm that is not finite has effects."""
    total = grads.global_norm
    if threshold is None and bool(torch.isfinite(total)):
        coefficient = torch.ones_like(total)
    else:
        # Of a norm that is not finite every threshold makes the same.
        limit = 1.0 if threshold is None else threshold
        coefficient = torch.clamp(limit / (total + 1e-6), max=1.0)
    factor = grads.scale(coefficient)
    return Outcome(
        grads.norms,
        total,
        threshold=threshold,
        coefficient=factor,
        post_norm=total.item() * factor,
        changed=factor < 1.0,
    )


def percentile(ascending: Sequence[float], percent: float) -> float:
    """``numpy.percentile`` (linear) of numbers that are sorted already, to the bit."""
    place = (len(ascending) - 1) * (percent / 100)
    low = int(place)
    share = place - low
    below, above = ascending[low], ascending[min(low + 1, len(ascending) - 1)]
    gap = above - below
    return above - gap * (1 - share) if share >= 0.5 else below + gap * share


def _fit(gammas: Tensor, count: int) -> Tensor:
    """``gammas`` [count], with no average yet for the targets that are new, at the end."""
    if len(gammas) > count:
        raise ValueError(
            f"AdaGC has averages of {len(gammas)} parameters, and {count} are given; "
            "take a new AdaGC for other parameters"
        )
    new = torch.full((count - len(gammas),), math.inf, dtype=torch.float64)
    return torch.cat([gammas.cpu().double(), new])
