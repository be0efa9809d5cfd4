"""Events out of norms: what a person would point at in the chart.

- ``clip_burst``: clipped steps with at most ``QUIET`` unclipped ones between them.
- ``spike``: a global norm of at least ``SPIKE`` times the usual one, the median of a ``WINDOW``.
- ``nonfinite``: a step with a NaN or infinite gradient norm.

Pure: frames go in, events come out; an event that grows comes out again under the same key.
"""

from __future__ import annotations

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
    """What one run of frames says of its steps; NaN where a step has no such value."""

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
        self._norms = np.empty(0, np.float32)
        self._seen = 0
        self._usual = np.inf

    def look(self, seen: Observed) -> list[Event]:
        """The events that began or grew with these steps. One of ``id`` None is new: the caller
        stores it and gives its number back through ``known``."""
        touched: list[Event] = []
        for kind, marks in (
            ("clip_burst", seen.clipped > 0),
            ("spike", self._spikes(seen.norm)),
            ("nonfinite", seen.nonfinite > 0),
        ):
            rows = np.flatnonzero(marks)
            if not len(rows):
                continue
            breaks = np.flatnonzero(np.diff(seen.steps[rows].astype(np.int64)) > QUIET + 1) + 1
            for burst in np.split(rows, breaks):
                event = self._grow(kind, seen, burst)
                self.open[kind] = event
                touched.append(event)
        return touched

    def known(self, event: Event, number: int) -> None:
        """``event`` is stored under ``number``; it keeps it while it grows."""
        current = self.open.get(event.kind)
        if current is not None and current.first_step == event.first_step:
            self.open[event.kind] = replace(current, id=number)

    def remember(self, norms: wire.FloatArray) -> None:
        """Norms that were seen before, oldest first."""
        self._spikes(norms)

    def _spikes(self, norms: wire.FloatArray) -> npt.NDArray[np.bool_]:
        spikes = np.zeros(len(norms), np.bool_)
        finite = np.flatnonzero(np.isfinite(norms))
        found = norms if len(finite) == len(norms) else norms[finite]
        marks = np.zeros(len(found), np.bool_)
        history = np.concatenate((self._norms, found))
        before, begin = len(self._norms), 0
        while begin < len(found):
            # The median moves slowly; taking it anew at every step would cost more than the rest.
            end = min(len(found), begin + REFRESH - self._seen % REFRESH)
            np.greater_equal(found[begin:end], SPIKE * self._usual, out=marks[begin:end])
            self._seen += end - begin
            if self._seen >= ENOUGH and self._seen % REFRESH == 0:
                self._usual = _median(history[max(0, before + end - WINDOW) : before + end])
            begin = end
        self._norms = history[-WINDOW:]
        spikes[finite] = marks & (found > 0)
        return spikes

    def _grow(self, kind: str, seen: Observed, burst: npt.NDArray[np.intp]) -> Event:
        """The event of a burst of rows; the open one, if the burst follows it closely."""
        first, last = (int(seen.steps[row]) for row in (burst[0], burst[-1]))
        norms = seen.norm[burst]
        bad = np.flatnonzero(~np.isfinite(norms))
        worst = int(burst[bad[0] if len(bad) else np.argmax(norms)])
        norm, threshold = float(seen.norm[worst]), float(seen.threshold[worst])
        event = Event(
            kind=kind,
            first_step=first,
            last_step=last,
            count=len(burst),
            peak_step=int(seen.steps[worst]),
            peak_norm=norm if np.isfinite(norm) else None,
            threshold=threshold if np.isfinite(threshold) else None,
            parameter=_hottest(seen, worst),
            text="",
        )
        before = self.open.get(kind)
        if before is not None and first - before.last_step <= QUIET + 1:
            count = before.count + event.count
            if before.peak_norm is not None and not norm <= before.peak_norm:
                event = replace(event, first_step=before.first_step, count=count, id=before.id)
            else:
                event = replace(before, last_step=last, count=count)
        return replace(event, text=_text(event))


def _median(values: wire.FloatArray) -> float:
    """As of numpy, whose own takes ten times as long for so few."""
    middle = len(values) // 2
    places = (middle, middle) if len(values) % 2 else (middle - 1, middle)
    low, high = np.partition(values, places)[list(places)]
    return float(low / 2 + high / 2)


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
