"""Runs, read again: ``gradhelm.open(run).frame()``, for notebooks and scripts that evaluate them."""

from __future__ import annotations

import io
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .rest import Client

if TYPE_CHECKING:
    import pandas

    from .clip import Strategy


class StoredRun:
    """A run as a server has it; ``info`` is what ``GET runs/{run}`` says of it.

    All methods raise :class:`gradhelm.errors.ServerError` when the server cannot be reached, or
    refuses.
    """

    def __init__(self, client: Client, info: dict[str, Any]) -> None:
        self._client = client
        self.info = info
        self.id = str(info["id"])

    def __repr__(self) -> str:
        return f"<{self.info['name']!r}, {self.info['steps']:,} steps, {self.info['status']}>"

    def _repr_html_(self) -> str:
        """What a notebook shows of a run: its figures as they are now, and its norms."""
        from .card import card

        self.refresh()
        asked = {"columns": "global_norm,threshold", "points": 300}
        found = self._client.ask("GET", f"runs/{self.id}/series", query=asked, accept=(404,))
        return card(self.info, self.url, found.body.get("columns", {}))

    def refresh(self) -> StoredRun:
        """Asks again how the run is doing; a run that goes on is no longer what ``info`` says."""
        self.info = self._client.ask("GET", f"runs/{self.id}").body
        return self

    @property
    def url(self) -> str:
        """Its page."""
        return f"{self._client.server}/runs/{self.id}"

    def columns(self) -> list[str]:
        """The names of all columns: ``global_norm``, ``norm/…``, what the script logged, …

        Those of an optimizer that is not the run's first begin with its name and a slash; with
        ``frame(stream=…)`` they are asked for, and named, without it.
        """
        found = self._client.ask("GET", f"runs/{self.id}/columns").body["columns"]
        return [str(column["name"]) for column in found]

    def frame(
        self,
        columns: Sequence[str] | None = None,
        *,
        first: int | None = None,
        last: int | None = None,
        stream: str | None = None,
    ) -> pandas.DataFrame:
        """One row for each step, indexed by ``step``: its ``time`` (UTC) and float32 columns, all or
        those named; NaN where nothing was measured. ``first``, ``last``: these steps alone, both
        included; a negative ``first`` counts back from the newest. Needs pandas.
        """
        import pandas

        # A comma between names cannot be told from one in a name: then all are asked for.
        listable = columns is not None and (len(columns) == 1 or "," not in "".join(columns))
        asked = {
            "columns": ",".join(columns) if columns is not None and listable else None,
            "first": first,
            "last": last,
            "stream": stream,
        }
        query = {name: value for name, value in asked.items() if value is not None}
        parts = self._client.download(f"runs/{self.id}/export", {"format": "csv", **query})
        kinds: defaultdict[str, str] = defaultdict(lambda: "float32", step="int64", time="float64")
        found = pandas.read_csv(io.BytesIO(b"".join(parts)), dtype=kinds)
        # What a spreadsheet would take for a formula was given a sign before it.
        found.columns = [name.removeprefix("'") for name in found.columns]
        found["time"] = pandas.to_datetime((1e6 * found["time"]).round(), unit="us", utc=True)
        found = found.set_index("step")
        return found if columns is None else found[["time", *columns]]

    def whatif(
        self,
        strategy: Strategy | Mapping[str, Strategy],
        *,
        first: int | None = None,
        last: int | None = None,
        stream: str | None = None,
    ) -> pandas.DataFrame:
        """What ``strategy`` would have done to the recorded norms, step by step, indexed by ``step``:
        ``global_norm`` as recorded, then the ``threshold`` in force, ``clip_coef``, ``clipped``,
        ``skipped`` and ``post_norm``; NaN where there is none.

        The strategy itself is run over them (a copy of it: what it has learned so far stays as it
        is), so thresholds that follow the norms do that here too. Exact for this trajectory; under
        another clip the weights, and the norms after them, would have become others. Raises
        ValueError for a strategy that goes by more than norms. Needs torch and pandas.
        """
        import numpy
        import pandas

        from . import whatif
        from .wire import MISSING

        made = whatif.prepared(strategy)
        names = ["global_norm"]
        if whatif.layered(made):
            prefix = f"{stream}/" if stream and stream != self.info["streams"][0]["name"] else ""
            norms = [
                n.removeprefix(prefix) for n in self.columns() if n.startswith(f"{prefix}norm/")
            ]
            names += norms
        frame = self.frame([*names, "nonfinite"], first=first, last=last, stream=stream)
        # In a table a NaN that was measured looks like nothing.
        bad = frame.pop("nonfinite") > 0
        there = frame["global_norm"].notna() | bad
        frame, bad = frame[there], bad[there]
        rows = {
            name.removeprefix("norm/"): numpy.where(frame[name].isna() & ~bad, MISSING, frame[name])
            for name in names[1:] or names
        }
        found = pandas.DataFrame(whatif.replay(made, rows), index=frame.index)
        found.insert(0, "global_norm", frame["global_norm"])
        return found


def open(run: str, *, server: str | None = None, token: str | None = None) -> StoredRun:
    """A run by its id, a unique prefix of it, or the newest of exactly that name.

    server, token: default to GRADHELM_SERVER and GRADHELM_TOKEN, else to this machine's own. Raises
    :class:`gradhelm.errors.ServerError` when there is no such run, or no such server.
    """
    client = Client.here(server, token)
    return StoredRun(client, client.find(run))
