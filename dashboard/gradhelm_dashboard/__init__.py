"""THE FACE: the page on which people watch a run's gradients and move its threshold.

It has no privilege of its own: the browser talks to the server's REST and WebSocket with its own
cookie, and Dash serves the shell, the routing and the controls.
"""

from .app import build_ui

__all__ = ["build_ui"]
