"""Compact JWTs signed with ES256 (RFC 7515, RFC 7518 §3.4): sign and verify, nothing about what the claims mean. Refuses every other algorithm. serviceaccounts.py calls it."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, utils

_COORDINATE_BYTES = 32


class InvalidToken(Exception):
    """Not a JWT of ours: malformed, another algorithm or key, or a wrong signature."""


def _encode(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def decode_part(part: bytes) -> bytes:
    try:
        return base64.b64decode(part + b"=" * (-len(part) % 4), altchars=b"-_", validate=True)
    except ValueError as err:
        raise InvalidToken(f"not base64url: {err}") from err


class SigningKey:
    """A P-256 private key that signs and verifies. `key_id` is the base64url SHA-256 of its public key's DER, as Kubernetes names keys."""

    def __init__(self, private_key: ec.EllipticCurvePrivateKey) -> None:
        self._private, self._public = private_key, private_key.public_key()
        der = self._public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
        self.key_id = _encode(hashlib.sha256(der).digest()).decode()
        self._header = _encode(orjson.dumps({"alg": "ES256", "kid": self.key_id}))

    @classmethod
    def load(cls, path: str) -> SigningKey:
        """From a PEM file. Raises OSError, ValueError naming the file."""
        pem = Path(path).read_bytes()
        try:
            key = serialization.load_pem_private_key(pem, None)
        except (ValueError, TypeError) as err:
            raise ValueError(f"{path}: not a PEM private key: {err}") from err
        if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
            raise ValueError(f"{path}: a P-256 EC private key is needed (ES256)")
        return cls(key)

    @classmethod
    def generate(cls) -> SigningKey:
        return cls(ec.generate_private_key(ec.SECP256R1()))

    def sign(self, claims: Mapping[str, Any]) -> str:
        message = self._header + b"." + _encode(orjson.dumps(dict(claims)))
        r, s = utils.decode_dss_signature(self._private.sign(message, ec.ECDSA(hashes.SHA256())))
        signature = r.to_bytes(_COORDINATE_BYTES, "big") + s.to_bytes(_COORDINATE_BYTES, "big")
        return (message + b"." + _encode(signature)).decode()

    def verify(self, token: str) -> dict[str, Any]:
        """The claims of a token this key signed; times and audiences are the caller's to check. Raises InvalidToken."""
        message, _, signature_text = token.encode(errors="replace").rpartition(b".")
        header_text, _, payload = message.partition(b".")
        header, signature = _object(header_text), decode_part(signature_text)
        if header.get("alg") != "ES256" or len(signature) != 2 * _COORDINATE_BYTES:
            raise InvalidToken("not signed with ES256")
        r, s = (int.from_bytes(half, "big") for half in (signature[:_COORDINATE_BYTES], signature[_COORDINATE_BYTES:]))
        try:
            self._public.verify(utils.encode_dss_signature(r, s), message, ec.ECDSA(hashes.SHA256()))
        except InvalidSignature:
            raise InvalidToken("wrong signature") from None
        return _object(payload)

    def jwk(self) -> dict[str, str]:
        """The public key for /openid/v1/jwks (RFC 7517)."""
        numbers = self._public.public_numbers()
        x, y = (_encode(n.to_bytes(_COORDINATE_BYTES, "big")).decode() for n in (numbers.x, numbers.y))
        return {"use": "sig", "kty": "EC", "kid": self.key_id, "crv": "P-256", "alg": "ES256", "x": x, "y": y}


def _object(part: bytes) -> dict[str, Any]:
    try:
        value = orjson.loads(decode_part(part))
    except orjson.JSONDecodeError as err:
        raise InvalidToken(f"not JSON: {err}") from err
    if not isinstance(value, dict):
        raise InvalidToken("not a JSON object")
    return value
