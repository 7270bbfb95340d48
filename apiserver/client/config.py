"""Where the API server is and who we are: one value, and the TLS context made from it.

Owns no connection. Built by kubeconfig.load() or by hand; both transports take it. `ssl` is imported only when a context is asked for.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    import ssl

__all__ = ["ClientConfig", "ConfigError"]


class ConfigError(ValueError):
    """A kubeconfig or a ClientConfig that cannot be used; the text names the file and the field."""


@dataclass(frozen=True)
class ClientConfig:
    """`server` is `https://host:port[/prefix]` (or http://); the `*_data` fields are PEM. Empty = not used; without `ca_data` the system's CAs are trusted.

    `token_file` is read again before it goes stale (projected ServiceAccount tokens are rotated)."""

    server: str
    ca_data: bytes = b""
    cert_data: bytes = b""
    key_data: bytes = b""
    token: str = ""
    token_file: str = ""
    insecure: bool = False
    tls_server_name: str = ""
    namespace: str = "default"

    @property
    def address(self) -> tuple[str, int]:
        """Host and port to connect to. Raises ConfigError."""
        parts = urlsplit(self.server)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError(f"server: {self.server!r} is not an http:// or https:// URL")
        try:
            return parts.hostname, parts.port or (443 if parts.scheme == "https" else 80)
        except ValueError as e:
            raise ConfigError(f"server: {self.server!r}: {e}") from None

    @property
    def secure(self) -> bool:
        return self.server.startswith("https:")

    @property
    def path_prefix(self) -> str:
        return urlsplit(self.server).path.rstrip("/")

    @property
    def host_header(self) -> str:
        return urlsplit(self.server).netloc.rpartition("@")[2]

    @property
    def server_hostname(self) -> str:
        """The name that the server's certificate must carry."""
        return self.tls_server_name or self.address[0]

    def ssl_context(self) -> ssl.SSLContext | None:
        """A fresh context for a client connection, None for http. Raises ConfigError for PEM that cannot be read."""
        if not self.secure:
            return None
        import ssl

        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        if self.insecure:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        elif self.ca_data:
            try:
                context.load_verify_locations(cadata=self.ca_data.decode())
            except (ssl.SSLError, ValueError) as e:
                raise ConfigError(f"certificate-authority: cannot read the PEM: {e}") from None
        else:
            context.load_default_certs()
        if self.cert_data:
            self._load_identity(context)
        return context

    def _load_identity(self, context: ssl.SSLContext) -> None:
        # OpenSSL's loader takes paths only: an anonymous file keeps the key off every disk.
        fd = os.memfd_create("client-identity")
        try:
            with open(fd, "wb", closefd=False) as f:
                f.write(self.cert_data.rstrip() + b"\n" + self.key_data)
            context.load_cert_chain(f"/proc/self/fd/{fd}")
        except OSError as e:
            raise ConfigError(f"client-certificate, client-key: cannot use the pair: {e.strerror or e}") from None
        finally:
            os.close(fd)
