"""Thresholds to try: what the recorded norms suggest, and what is customary.

Pure. A suggestion is a value with its reason and where that comes from, never a promise: the norms
are those that the threshold in force has led to, and what is customary elsewhere was found with
losses of another size.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt

from gradhelm import wire

from .diagnosis import MANY
from .whatif import WhatIf, coefficients, inverses

WINDOW: Final = 10_000
"""Steps that are looked at: enough for percentiles, and few enough that they speak of now."""
ENOUGH: Final = 50
"""With fewer finite norms than that there are no statistics worth the name."""
TARGET: Final = 0.1
FIGURES: Final = 4
"""Significant figures of a suggestion: those that people type, and that ``clip_fraction`` is of."""

Sorted = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Suggestion:
    """``kind`` is "statistic" (of this run's norms) or "customary" (of a field)."""

    kind: str
    name: str
    value: float
    reason: str
    source: str


@dataclass(frozen=True, slots=True)
class Advice:
    """``steps`` were recorded, ``finite`` of them with a norm that is finite. ``fractions`` are the
    shares of the steps that each suggestion would have clipped, by torch's rule; None without
    steps. ``note`` says why there are no statistics."""

    steps: int
    finite: int
    suggestions: list[Suggestion] = field(default_factory=list)
    fractions: list[float | None] = field(default_factory=list)
    note: str | None = None


CUSTOMARY: Final = (
    Suggestion(
        "customary",
        "Transformers and language models",
        1.0,
        "Pre-training of large language models clips the global norm at 1, and fine-tuning with "
        "Hugging Face's Trainer does so unless told otherwise.",
        "Brown et al. 2020 (GPT-3), appendix B; Touvron et al. 2023 (LLaMA), section 2.3; "
        "transformers, TrainingArguments.max_grad_norm",
    ),
    Suggestion(
        "customary",
        "LSTM language models",
        0.25,
        "With plain SGD at large learning rates, recurrent language models need a small threshold.",
        "Merity et al. 2018 (AWD-LSTM); pytorch/examples, word_language_model, --clip 0.25",
    ),
    Suggestion(
        "customary",
        "Sequence to sequence with LSTMs",
        5.0,
        "Gradients, averaged over the batch, were scaled back to a norm of 5.",
        "Sutskever, Vinyals and Le 2014, section 3.4",
    ),
    Suggestion(
        "customary",
        "Detection transformers",
        0.1,
        "DETR trains with a very small threshold, beside AdamW.",
        "Carion et al. 2020 (DETR); facebookresearch/detr, --clip_max_norm 0.1",
    ),
    Suggestion(
        "customary",
        "Policy gradients: PPO and A2C",
        0.5,
        "The usual implementations clip the global norm at 0.5 unless told otherwise.",
        "OpenAI Baselines; Stable-Baselines3, max_grad_norm=0.5; Huang et al. 2022, The 37 "
        "Implementation Details of Proximal Policy Optimization",
    ),
    Suggestion(
        "customary",
        "Value learning: DQN",
        10.0,
        "The dueling network was trained with gradients clipped to a norm of at most 10.",
        "Wang et al. 2016, Dueling Network Architectures; Stable-Baselines3, DQN, max_grad_norm=10",
    ),
    Suggestion(
        "customary",
        "Speech recognition: ESPnet",
        5.0,
        "The default of ESPnet's training tasks.",
        "espnet/espnet, espnet2, --grad_clip 5.0",
    ),
    Suggestion(
        "customary",
        "Speech recognition with CTC and RNNs",
        400.0,
        "Norms are large in this field; those beyond 400 were scaled back to 400.",
        "Amodei et al. 2016 (Deep Speech 2)",
    ),
)
"""What papers and widely used programs clip the global norm at."""


def advise(norms: wire.FloatArray, target: float = TARGET) -> Advice:
    """Advice by these norms, in which some may be missing or not finite.

    ``target``: the share of steps that one of the suggestions is to clip.
    """
    there = norms[~wire.missing(norms)]
    finite = there[np.isfinite(there)]
    ranked: Sorted = np.sort(finite).astype(np.float64)
    note, found = None, list(CUSTOMARY)
    if len(ranked) < ENOUGH:
        note = (
            f"{len(ranked):,} finite norms are recorded; with fewer than {ENOUGH} there are no "
            "statistics."
        )
    else:
        bound_to = int(np.count_nonzero(np.isinf(there)))  # clipped, whatever the threshold
        found = [*_statistics(ranked, len(there), bound_to, target), *found]
    return Advice(len(there), len(finite), found, _fractions(there, found), note)


def caution(fraction: float | None) -> str | None:
    """What is to be said of a threshold that would clip this share of the steps."""
    if fraction is None or fraction <= MANY:
        return None
    return (
        "It would clip more than half of the steps, which is a smaller learning rate by another "
        "name."
    )


def _statistics(ranked: Sorted, steps: int, bound_to: int, target: float) -> list[Suggestion]:
    mean, deviation = float(ranked.mean()), float(ranked.std())
    over = f"over {len(ranked):,} steps"

    def suggest(
        name: str,
        value: float | None,
        reason: str,
        source: str,
        rounded: Callable[[float], float] = lambda value: float(f"{value:.{FIGURES}g}"),
    ) -> list[Suggestion]:
        # Of norms that are all zero, say, nothing follows: a threshold is above 0, in float32.
        if value is None or not 0 < value <= np.finfo(np.float32).max:
            return []
        return [Suggestion("statistic", name, rounded(value), reason, source)]

    return [
        *suggest(
            "90th percentile",
            float(np.percentile(ranked, 90)),
            f"Nine of ten norms {over} were below it: only what stands out is clipped.",
            "Godbole et al. 2023, Deep Learning Tuning Playbook",
        ),
        *suggest(
            f"Clips {100 * target:g} % of the steps",
            _clipping(ranked, int(target * steps) - bound_to),
            f"The smallest threshold at which at most {100 * target:g} % of the {steps:,} steps "
            "would have been clipped.",
            "Andrew et al. 2021, Differentially Private Learning with Adaptive Clipping, whose "
            "threshold follows a quantile",
            lambda value: value,
        ),
        *suggest(
            "Mean + 3 standard deviations",
            mean + 3 * deviation,
            f"The norms {over} are {mean:.{FIGURES}g} ± {deviation:.{FIGURES}g}: a ceiling for "
            "spikes that leaves the usual steps alone.",
            "The rule of three standard deviations; Kumar et al. 2025 (ZClip) clips by z-scores, "
            "with a running mean",
        ),
        *suggest(
            "10th percentile",
            float(np.percentile(ranked, 10)),
            "What AutoClip found best for source separation: nearly every step is clipped, so that "
            "most are of the same length.",
            "Seetharaman et al. 2020 (AutoClip)",
        ),
        *suggest(
            "Half the mean",
            mean / 2,
            f"The mean {over} is {mean:.{FIGURES}g}. Training still converged with anything from "
            "half to ten times the mean; this is the low end.",
            "Pascanu, Mikolov and Bengio 2013, section 3.2",
        ),
        *suggest(
            "Ten times the mean",
            10 * mean,
            f"The mean {over} is {mean:.{FIGURES}g}; this is the high end of what still converged: "
            "it catches explosions and nothing else.",
            "Pascanu, Mikolov and Bengio 2013, section 3.2",
        ),
    ]


def _clipping(ranked: Sorted, most: int) -> float | None:
    """The smallest threshold, to FIGURES figures, that clips at most ``most`` of these norms."""
    spared = len(ranked) - 1 - most
    if not 0 <= spared < len(ranked) or not ranked[spared] > 0:
        return None
    norm = ranked[spared : spared + 1].astype(np.float32)
    # By torch's rule a norm that equals the threshold may be clipped, because of its 1e-6.
    least = float(norm[0]) + 1e-6
    unit = 10.0 ** (math.floor(math.log10(least)) - FIGURES + 1)
    count = math.ceil(least / unit)
    while True:  # once, or twice where float32 rounds down
        value = float(f"{count * unit:.{FIGURES}g}")
        if coefficients(inverses(norm), value)[0] >= 1:
            return value
        count += 1


def _fractions(there: wire.FloatArray, found: list[Suggestion]) -> list[float | None]:
    seen = WhatIf([suggestion.value for suggestion in found])
    seen.see(there)
    return [count / seen.steps if seen.steps else None for count in seen.clipped]
