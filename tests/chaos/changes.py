"""Changes of a threshold, made while everything is being killed, and what has to become of them."""

from __future__ import annotations

import random
import threading
from collections import Counter
from dataclasses import dataclass, field

import httpx

CODED = 1e6
FINAL = {"applied", "superseded", "expired"}


@dataclass
class Changer:
    """Makes changes of one run, one after the other, each until it is answered."""

    url: str
    token: str
    run: str
    wanted: int
    dice: random.Random
    made: list[int] = field(default_factory=list)
    stale: int = 0
    tries: int = 0

    def __post_init__(self) -> None:
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def finish(self) -> None:
        self._over.set()
        self._thread.join(60)
        assert not self._thread.is_alive()

    def _work(self) -> None:
        with httpx.Client(
            base_url=f"{self.url}/api/v1/runs/{self.run}",
            headers={"Authorization": f"Bearer {self.token}"},
            timeout=10,
        ) as rest:
            while len(self.made) < self.wanted and not self._over.is_set():
                self._change(rest)
                self._over.wait(self.dice.uniform(0.0, 0.5))

    def _change(self, rest: httpx.Client) -> None:
        """One change; the same request again and again until it is answered."""
        key = f"{self.dice.getrandbits(64):x}"
        value = CODED * self.dice.choice([0.5, 0.8, 1.0, 1.25, 2.0])
        version: int | None = None
        while not self._over.is_set():
            self.tries += 1
            try:
                if version is None:
                    found = rest.get("/control")
                    if found.status_code != 200:
                        self._over.wait(0.05)
                        continue
                    version = found.json()["version"]
                answer = rest.put(
                    "/control",
                    json={"max_norm": value, "reason": "chaos"},
                    headers={"If-Match": f'"{version}"', "Idempotency-Key": key},
                )
            except httpx.TransportError:
                self._over.wait(0.02)
                continue
            if answer.status_code == 202:
                self.made.append(int(answer.headers["ETag"].strip('"')))
                return
            if answer.status_code == 412:
                self.stale += 1
                version = None
                continue
            assert answer.status_code >= 500, answer.text
            self._over.wait(0.05)


def reckon(rest: httpx.Client, changer: Changer) -> dict[str, int]:
    """Hold history and document of a run that has ended against what was answered."""
    history = rest.get(f"/api/v1/runs/{changer.run}/control/history").json()["versions"]
    document = rest.get(f"/api/v1/runs/{changer.run}/control").json()
    versions = [told["version"] for told in history]
    assert versions == list(range(len(history), 0, -1))
    assert len(set(changer.made)) == len(changer.made), "one request made two versions"
    assert set(changer.made) <= set(versions)
    # A request whose answer was lost with the end of the test made a version nobody was told of.
    assert len(versions) - len(changer.made) <= 1
    for told in history:
        assert told["status"] in FINAL, told
        statuses = [event["status"] for event in told["events"]]
        assert statuses[0] == "pending"
        # Once in each life of the trainer. One that was superseded may turn out to have been applied
        # before the trainer heard of the newer one: then that is the last word.
        steps = [event["step"] for event in told["events"] if event["status"] == "applied"]
        assert len(steps) == len(set(steps)), told
        assert statuses.count("superseded") + statuses.count("expired") <= 1, told
    if history:
        assert document["version"] == history[0]["version"]
        assert document["status"] == history[0]["status"]
        assert document["step"] == history[0]["step"]
    found = Counter(told["status"] for told in history)
    return {"made": len(history), "tries": changer.tries, **found}
