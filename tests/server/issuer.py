"""An OpenID Connect issuer that says what a test wants it to say, and lies on demand."""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, urlencode

import uvicorn
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, RedirectResponse
from support import eventually, free_port


def encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def number(value: int) -> str:
    return encoded(value.to_bytes((value.bit_length() + 7) // 8, "big"))


@dataclass
class Issuer:
    """``claims``: what the next ID token says besides or instead of what is right. ``lie``: how it
    is wrong: "signature", "none", "key"; ``refuses``: it lets nobody in."""

    url: str
    claims: dict[str, Any] = field(default_factory=dict)
    lie: str = ""
    refuses: bool = False
    asked: list[dict[str, str]] = field(default_factory=list)
    _codes: dict[str, dict[str, str]] = field(default_factory=dict)
    _key: rsa.RSAPrivateKey = field(
        default_factory=lambda: rsa.generate_private_key(public_exponent=65537, key_size=2048)
    )

    def token(self, nonce: str) -> str:
        now = int(time.time())
        claims = {
            "iss": self.url,
            "aud": "gradhelm-here",
            "sub": "subject-1",
            "iat": now,
            "exp": now + 300,
            "nonce": nonce,
            "email": "ann@example.org",
            "email_verified": True,
            **self.claims,
        }
        header = {"alg": "none" if self.lie == "none" else "RS256", "kid": "1", "typ": "JWT"}
        signed = ".".join(encoded(json.dumps(part).encode()) for part in (header, claims))
        if self.lie == "none":
            return f"{signed}."
        key = self._key
        if self.lie == "key":
            key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        signature = key.sign(signed.encode(), padding.PKCS1v15(), hashes.SHA256())
        if self.lie == "signature":
            signature = bytes(reversed(signature))
        return f"{signed}.{encoded(signature)}"

    def app(self) -> FastAPI:
        app = FastAPI()

        @app.get("/.well-known/openid-configuration")
        async def metadata() -> dict[str, Any]:
            return {
                "issuer": self.url,
                "authorization_endpoint": f"{self.url}/authorize",
                "token_endpoint": f"{self.url}/token",
                "jwks_uri": f"{self.url}/keys",
                "response_types_supported": ["code"],
                "subject_types_supported": ["public"],
                "id_token_signing_alg_values_supported": ["RS256"],
            }

        @app.get("/keys")
        async def keys() -> dict[str, Any]:
            public = self._key.public_key().public_numbers()
            key = {"kty": "RSA", "kid": "1", "use": "sig", "alg": "RS256"}
            return {"keys": [{**key, "n": number(public.n), "e": number(public.e)}]}

        @app.get("/authorize")
        async def authorize(request: Request) -> RedirectResponse:
            asked = dict(request.query_params)
            self.asked.append(asked)
            told = {"state": asked["state"]}
            if self.refuses:
                told |= {"error": "access_denied", "error_description": "not today"}
            else:
                told["code"] = secrets.token_urlsafe(8)
                self._codes[told["code"]] = asked
            return RedirectResponse(f"{asked['redirect_uri']}?{urlencode(told)}")

        @app.post("/token")
        async def token(request: Request) -> JSONResponse:
            told = dict(parse_qsl((await request.body()).decode()))
            asked = self._codes.pop(told["code"], None)
            challenge = encoded(hashlib.sha256(told.get("code_verifier", "").encode()).digest())
            if asked is None or challenge != asked.get("code_challenge"):
                return JSONResponse({"error": "invalid_grant"}, 400)
            body = {"access_token": "a", "token_type": "Bearer", "expires_in": 300}
            return JSONResponse(body | {"id_token": self.token(asked["nonce"])})

        return app


@contextmanager
def issuer() -> Iterator[Issuer]:
    port = free_port()
    found = Issuer(f"http://127.0.0.1:{port}")
    server = uvicorn.Server(uvicorn.Config(found.app(), port=port, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        eventually(lambda: server.started, what="issuer start")
        yield found
    finally:
        server.should_exit = True
        thread.join()
