"""What is wrong with a run's gradients, in words: what is the case, by which figures, what helps.

Pure. A finding is said of what was recorded, with the figures that it rests on, so that whoever
reads it can disagree. None of them is an alarm: they are what an experienced person would remark on
when looking at the charts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from gradhelm import wire

ENOUGH: Final = 50
"""Steps below which nothing is said but what holds of a single one."""
MANY: Final = 0.5
"""The clip fraction above which a threshold is a learning rate by another name."""
NEVER: Final = 1000
"""Steps without a single clip after which the threshold is only a safety net."""
DEAD: Final = 200
"""The newest steps, in all of which the gradient of a dead parameter is exactly zero."""
PARTS: Final = 8
GROWTH: Final = 5.0
"""How many times the norms of the first part those of the last one are when they grow, ... Small
networks that learn as they should begin with a growth by two to three (benchmarks/findings.py)."""
CONCORDANT: Final = 25
"""... and how many of the 28 pairs of parts have to agree in it."""
VANISHING: Final = 1e-5
"""Of the largest root mean square of a layer's gradient elements."""
RATIOS: Final = (1e-5, 1e-2)
"""The band that update-to-weight ratios are expected in, generously, around 1e-3."""
CULPRIT: Final = 0.5
"""The share of the clips that one parameter has to cause alone, to be named for it."""
ADAMS: Final = frozenset(
    {
        "Adam",
        "AdamW",
        "Adamax",
        "NAdam",
        "RAdam",
        "SparseAdam",
        "FusedAdam",
        "AdamW8bit",
        "Adam8bit",
    }
)
"""Optimizers whose update does not change when all gradients are multiplied by one number."""
NAMED: Final = 5
"""Parameters that a sentence names; ``parameters`` has all."""

Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Seen:
    """What is known of the newest steps of one stream or rule.

    ``norms`` and ``clipped`` [steps]: of a window, as recorded. ``first_bad``: step and parameter
    of the window's first non-finite norm. ``layers`` [parameters x steps]: norms of the newest
    steps, with the ``thresholds`` [steps] that were in force. ``ratios`` [parameters x steps]:
    update-to-weight ratios. ``names`` and ``shapes``: the rows of both. ``optimizer``: its class.
    """

    norms: wire.FloatArray
    clipped: wire.FloatArray
    clips: bool
    first_bad: tuple[int, str | None] | None
    layers: wire.FloatArray
    thresholds: wire.FloatArray
    ratios: wire.FloatArray
    names: Sequence[str]
    shapes: Sequence[Sequence[int]]
    optimizer: str | None


@dataclass(frozen=True, slots=True)
class Finding:
    """``text``: what is the case, with its figures. ``help``: what to try. ``parameters``: those that
    it is about, the worst first. ``max_norm``: a threshold that would mend it."""

    kind: str
    text: str
    help: str
    source: str
    parameters: tuple[str, ...] = ()
    max_norm: float | None = None


def findings(seen: Seen) -> list[Finding]:
    """All that is to be said, what weighs most first."""
    parts = (_nonfinite, _growing, _clipping, _culprit, _dead, _vanishing, _ratios)
    return [finding for part in parts for finding in part(seen)]


def _nonfinite(seen: Seen) -> Iterator[Finding]:
    there = seen.norms[~wire.missing(seen.norms)]
    bad = int(np.count_nonzero(~np.isfinite(there)))
    if not bad:
        return
    where = ""
    if seen.first_bad is not None:
        step, parameter = seen.first_bad
        where = f", first at step {step:,}" + (f" in {parameter}" if parameter else "")
    yield Finding(
        "nonfinite",
        f"{_steps(bad)} of {len(there):,} had a NaN or infinite gradient norm{where}.",
        "No threshold mends a NaN: look at the layer and the batch of that step, at divisions, "
        "logarithms and roots in the loss, and at the loss scale if training is in float16. "
        'A strategy with nonfinite="skip" leaves such steps out.',
        "Micikevicius et al. 2018, Mixed Precision Training, section 3.2; PyTorch, Automatic Mixed "
        "Precision: skipped steps",
        (seen.first_bad[1],) if seen.first_bad and seen.first_bad[1] else (),
    )


def _growing(seen: Seen) -> Iterator[Finding]:
    norms = seen.norms[np.isfinite(seen.norms)]
    if len(norms) < PARTS * ENOUGH // 2:
        return
    medians = np.array([np.median(part) for part in np.array_split(norms, PARTS)])
    later = medians[None, :] > medians[:, None]
    if int(np.triu(later, 1).sum()) < CONCORDANT or medians[-1] < GROWTH * medians[0]:
        return
    yield Finding(
        "growing",
        f"The norms grow: their median over the last eighth of {len(norms):,} steps is "
        f"{medians[-1]:.3g}, over the first one {medians[0]:.3g}.",
        "Before it becomes an explosion: lower the learning rate, warm up more slowly, or look for "
        "what grows with it, such as weights without decay. A threshold keeps the steps bounded, "
        "but not what makes them grow.",
        "Pascanu, Mikolov and Bengio 2013; Wortsman et al. 2023, Small-scale proxies for "
        "large-scale Transformer training instabilities",
    )


def _clipping(seen: Seen) -> Iterator[Finding]:
    there = ~wire.missing(seen.norms)
    steps = int(np.count_nonzero(there))
    if not seen.clips or steps < ENOUGH:
        return
    finite = seen.norms[np.isfinite(seen.norms)].astype(np.float64)
    fraction = float(np.count_nonzero(seen.clipped[there] == 1)) / steps
    if fraction > MANY:
        usual = float(f"{np.percentile(finite, 90):.3g}") if len(finite) else None
        yield Finding(
            "clips_most",
            f"{100 * fraction:.3g} % of the newest {steps:,} steps were clipped.",
            "A threshold that clips most steps is a smaller learning rate by another name: lower "
            "the learning rate instead, or raise the threshold to where only what stands out is "
            "clipped" + (f": the 90th percentile of the norms is {usual:g}." if usual else "."),
            "Godbole et al. 2023, Deep Learning Tuning Playbook: above 50 % is extremely "
            "aggressive",
            max_norm=usual if usual and usual > 0 else None,
        )
        if seen.optimizer in ADAMS:
            yield Finding(
                "scale_is_invisible",
                f"The optimizer is {seen.optimizer}, whose update stays the same when all gradients "
                "are multiplied by one number.",
                "When most steps are clipped, what is left of clipping is that large steps weigh as "
                "much as small ones in its averages; a smaller threshold makes no smaller step. To "
                "make smaller steps, lower the learning rate.",
                "Kingma and Ba 2015, Adam, section 2.1: invariant to the scale of the gradients",
            )
    elif fraction == 0 and steps >= NEVER and len(finite):
        least = seen.thresholds[np.isfinite(seen.thresholds)]
        limit = f", and the threshold is {least.min():.3g}" if len(least) else ""
        yield Finding(
            "never_clips",
            f"None of the newest {steps:,} steps was clipped: the largest norm was "
            f"{finite.max():.3g}{limit}.",
            "As a safety net against an explosion that is as it should be. If clipping is meant to "
            "shape ordinary steps, take a threshold near their 90th percentile, "
            f"{np.percentile(finite, 90):.3g}.",
            "Pascanu, Mikolov and Bengio 2013, section 3.2; Deep Learning Tuning Playbook",
        )


def _culprit(seen: Seen) -> Iterator[Finding]:
    """One parameter without which the norm would have been below the threshold."""
    if not seen.clips or len(seen.names) < 2 or not seen.layers.shape[1]:
        return
    squares = np.where(np.isfinite(seen.layers), seen.layers, 0).astype(np.float64) ** 2
    total = squares.sum(axis=0)
    steps = np.isfinite(seen.thresholds) & np.isfinite(seen.layers).any(axis=0)
    over = steps & (total > seen.thresholds.astype(np.float64) ** 2)
    count = int(np.count_nonzero(over))
    if count < ENOUGH // 2:
        return
    spared = total[None, over] - squares[:, over] <= seen.thresholds[None, over] ** 2
    causes = spared.sum(axis=1)
    worst = int(np.argmax(causes))
    if causes[worst] < CULPRIT * count:
        return
    name = seen.names[worst]
    own = float(f"{np.percentile(np.sqrt(squares[worst, steps]), 90):.3g}")
    rest = float(f"{np.percentile(np.sqrt((total - squares[worst])[steps]), 90):.3g}")
    advised = f'clip={{"{name}": GlobalNorm({own:g}), "*": GlobalNorm({rest:g})}}'
    yield Finding(
        "one_layer",
        f"{name} alone causes {100 * causes[worst] / count:.0f} % of the newest {count:,} clips: "
        "without it, the norm of the others would have been below the threshold.",
        "All other layers are scaled down for it. Give it a threshold of its own"
        + (f": {advised} (the 90th percentiles of both)." if own > 0 and rest > 0 else "."),
        "Brock et al. 2021 (NFNets), who leave the final layer out; timm, clip modes by parameter",
        (name,),
    )


def _dead(seen: Seen) -> Iterator[Finding]:
    newest = seen.layers[:, -DEAD:]
    there = ~wire.missing(newest)
    enough = there.sum(axis=1) >= ENOUGH
    dead = np.flatnonzero(enough & (np.where(there, newest, 0) == 0).all(axis=1))
    if not len(dead) or len(dead) == len(seen.names):
        return
    names = tuple(seen.names[int(row)] for row in dead)
    yield Finding(
        "dead",
        f"The gradient of {_named(names)} was exactly zero in all of the newest "
        f"{int(there[dead].sum(axis=1).min()):,} steps.",
        "Nothing is learned there: units that never activate (a learning rate that was too large "
        "once, or a bias), a branch that the loss does not depend on, or weights that a mask "
        "holds. Freeze them if that is meant.",
        "Lu et al. 2020, Dying ReLU and Initialization",
        names,
    )


def _vanishing(seen: Seen) -> Iterator[Finding]:
    if seen.layers.shape[1] < ENOUGH:
        return
    sizes = _typical(seen.layers) / np.sqrt([max(1, int(np.prod(s))) for s in seen.shapes])
    weights = np.array([len(shape) > 1 for shape in seen.shapes], bool) & (sizes > 0)
    if np.count_nonzero(weights) < 2:
        return
    largest = float(sizes[weights].max())
    low = [int(row) for row in np.flatnonzero(weights & (sizes < VANISHING * largest))]
    if not low:
        return
    low.sort(key=lambda row: sizes[row])
    names = tuple(seen.names[row] for row in low)
    yield Finding(
        "vanishing",
        f"The gradient of {_named(names)} has almost vanished: an element of it is typically "
        f"{sizes[low[0]]:.1g}, against {largest:.1g} where it is largest.",
        "Clipping does not help against gradients that vanish. What does: residual connections, "
        "normalisation, gates (LSTM, GRU), another initialisation, or activations that do not "
        "saturate.",
        "Bengio, Simard and Frasconi 1994; Glorot and Bengio 2010; He et al. 2016",
        names,
    )


def _ratios(seen: Seen) -> Iterator[Finding]:
    typical = _typical(seen.ratios)
    weights = np.array([len(shape) > 1 for shape in seen.shapes], bool)
    for kind, found, words, helps in (
        (
            "update_ratio_high",
            weights & (typical > RATIOS[1]),
            "more than 1 %",
            "Weights that change by that much in one step forget what they learned: lower the "
            "learning rate.",
        ),
        (
            "update_ratio_low",
            weights & (typical < RATIOS[0]) & (typical > 0),
            "less than 0.001 %",
            "They hardly move. If they are not meant to: a larger learning rate, or a larger "
            "threshold if most steps are clipped.",
        ),
    ):
        rows = [int(row) for row in np.flatnonzero(found)]
        rows.sort(key=lambda row: -abs(np.log10(typical[row]) + 3))
        if rows:
            names = tuple(seen.names[row] for row in rows)
            yield Finding(
                kind,
                f"A step changes {_named(names)} by {words} of its norm ({typical[rows[0]]:.1g}).",
                helps,
                "Karpathy, CS231n, Babysitting the learning process: a ratio around 1e-3",
                names,
            )


def _typical(rows: wire.FloatArray) -> npt.NDArray[np.float64]:
    """The median of each row's finite values; NaN of one without."""
    found = np.full(len(rows), np.nan)
    for row, values in enumerate(rows):
        finite = values[np.isfinite(values)]
        if len(finite):
            found[row] = np.median(finite)
    return found


def _steps(count: int) -> str:
    return "1 step" if count == 1 else f"{count:,} steps"


def _named(names: Sequence[str]) -> str:
    shown = ", ".join(names[:NAMED])
    return shown if len(names) <= NAMED else f"{shown} and {len(names) - NAMED} more"
