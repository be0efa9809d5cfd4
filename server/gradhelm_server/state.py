"""What one server process holds, handed to its routes."""

from __future__ import annotations

from dataclasses import dataclass, field

from starlette.requests import HTTPConnection

from .compactor import Compactor
from .hub import Hub
from .observed import Observed
from .oidc import Oidc
from .roles import Identity
from .runs import Patience
from .sessions import LoginCodes, Tries
from .settings import ServerSettings
from .store import Store


class PointsMeter:
    """Points (one column at one step) stored per second, over the last ten seconds or so."""

    def __init__(self) -> None:
        self._rate = 0.0
        self._at = 0.0

    def add(self, points: int, moment: float) -> None:
        self._rate = self.rate(moment) + points / 10
        self._at = moment

    def rate(self, moment: float) -> float:
        return float(self._rate * 0.9 ** max(0.0, moment - self._at))


@dataclass
class State:
    store: Store
    hub: Hub
    settings: ServerSettings
    codes: LoginCodes
    patience: Patience
    compactor: Compactor
    meter: PointsMeter = field(default_factory=PointsMeter)
    observed: Observed = field(default_factory=Observed)
    tries: Tries = field(default_factory=Tries)
    oidc: Oidc | None = None


def state_of(connection: HTTPConnection) -> State:
    state = connection.app.state.gradhelm
    assert isinstance(state, State)
    return state


def identity_of(connection: HTTPConnection) -> Identity:
    """Who the gate let in."""
    identity = connection.scope["gradhelm.identity"]
    assert isinstance(identity, Identity)
    return identity
