"""Events out of norms: what a person would point at in the chart.

- ``clip_burst``: clipped steps with at most ``QUIET`` unclipped ones between them.
- ``spike``: a global norm of at least ``SPIKE`` times the usual one, the median of a ``WINDOW``.
- ``nonfinite``: a step with a NaN or infinite gradient norm.

Pure: frames go in, events come out; an event that grows comes out again under the same key.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from gradhelm import wire

QUIET = 8
SPIKE = 4.0
WINDOW = 128
ENOUGH = 20
"""Norms that must have been seen before one can be called a spike."""
REFRESH = 16
"""Norms after which the usual one is taken anew."""


@dataclass(frozen=True, slots=True)
class Event:
    """``count`` steps of one kind between two steps, and the worst of them."""

    kind: str
    first_step: int
    last_step: int
    count: int
    peak_step: int
    peak_norm: float | None
    threshold: float | None
    parameter: str | None
    text: str
    id: int | None = None


@dataclass(frozen=True, slots=True)
class Observed:
    """What one frame says of its steps; NaN where a step has no such value."""

    steps: wire.StepArray
    norm: wire.FloatArray
    threshold: wire.FloatArray
    clipped: wire.FloatArray
    nonfinite: wire.FloatArray
    layers: wire.FloatArray  # steps x parameters
    names: list[str]


class Detector:
    """Open events and the recent norms of one segment."""

    def __init__(self, open_events: list[Event] | None = None) -> None:
        self.open: dict[str, Event] = {event.kind: event for event in open_events or []}
        self._norms: deque[float] = deque(maxlen=WINDOW)
        self._seen = 0
        self._usual = np.inf

    def look(self, seen: Observed) -> list[Event]:
        """The events that began or grew with these steps. One of ``id`` None is new: the caller
        stores it and gives its number back through ``known``."""
        touched: dict[tuple[str, int], Event] = {}
        spikes = self._spikes(seen)
        for kind, marks in (
            ("clip_burst", seen.clipped > 0),
            ("spike", spikes),
            ("nonfinite", seen.nonfinite > 0),
        ):
            for row in np.flatnonzero(marks).tolist():
                event = self._grow(kind, seen, row)
                self.open[kind] = event
                touched[kind, event.first_step] = event
        return list(touched.values())

    def known(self, event: Event, number: int) -> None:
        """``event`` is stored under ``number``; it keeps it while it grows."""
        current = self.open.get(event.kind)
        if current is not None and current.first_step == event.first_step:
            self.open[event.kind] = replace(current, id=number)

    def remember(self, norms: list[float]) -> None:
        """Norms that were seen before, oldest first."""
        for norm in norms:
            self._is_spike(norm)

    def _spikes(self, seen: Observed) -> npt.NDArray[np.bool_]:
        return np.array([self._is_spike(norm) for norm in seen.norm.tolist()], np.bool_)

    def _is_spike(self, norm: float) -> bool:
        if not math.isfinite(norm):
            return False
        spike = 0 < norm >= SPIKE * self._usual
        self._norms.append(norm)
        self._seen += 1
        # The median moves slowly; taking it anew at every step would cost more than the rest.
        if self._seen >= ENOUGH and self._seen % REFRESH == 0:
            self._usual = float(np.median(self._norms))
        return spike

    def _grow(self, kind: str, seen: Observed, row: int) -> Event:
        step, norm = int(seen.steps[row]), float(seen.norm[row])
        threshold = float(seen.threshold[row])
        before = self.open.get(kind)
        grows = before is not None and step - before.last_step <= QUIET + 1
        if before is not None and grows:
            worse = before.peak_norm is not None and not norm <= before.peak_norm
            if not worse:
                event = replace(before, last_step=step, count=before.count + 1)
                return replace(event, text=_text(event))
        event = Event(
            kind=kind,
            first_step=before.first_step if before is not None and grows else step,
            last_step=step,
            count=before.count + 1 if before is not None and grows else 1,
            peak_step=step,
            peak_norm=norm if np.isfinite(norm) else None,
            threshold=threshold if np.isfinite(threshold) else None,
            parameter=_hottest(seen, row),
            text="",
            id=before.id if before is not None and grows else None,
        )
        return replace(event, text=_text(event))


def _hottest(seen: Observed, row: int) -> str | None:
    """The layer with the first non-finite norm, else with the largest one."""
    layers = seen.layers[row]
    there = ~wire.missing(layers)
    bad = np.flatnonzero(there & ~np.isfinite(layers))
    if len(bad):
        return seen.names[int(bad[0])]
    return seen.names[int(np.nanargmax(layers))] if bool(there.any()) else None


def _text(event: Event) -> str:
    steps = f"{event.count} steps" if event.count > 1 else "1 step"
    if event.kind == "clip_burst":
        return f"{steps} clipped"
    if event.kind == "nonfinite":
        where = f", first in {event.parameter}" if event.parameter else ""
        return f"{steps} with a NaN or infinite norm{where}"
    return f"{steps} at {SPIKE:g} times the usual norm or more"
