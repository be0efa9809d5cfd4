"""Parity with the reference implementations; run by `make oracles`."""
