"""One repository of one registry over HTTP(S): manifests and blobs (OCI distribution-spec), anonymous, basic and bearer-token authentication (distribution's token spec),
redirects, proxies of the environment, downloads resumed where they broke. Blocking; called by `fetch`, which runs in a process of its own."""

from __future__ import annotations

import base64
import http.client
import ipaddress
import json
import re
import ssl
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.images import manifests
from agent.images.model import Auth, ImageError, ImagePullError

TIMEOUT_S = 30.0
_CHUNK = 256 << 10
_MAX_MANIFEST = 4 << 20
_ATTEMPTS = 5
_BROKEN = (OSError, http.client.HTTPException)
_HOSTS = {"docker.io": "registry-1.docker.io"}  # Docker Hub's API has another name than its references
_CHALLENGE = re.compile(r'([a-zA-Z_]+)="([^"]*)"')


@dataclass(frozen=True, slots=True)
class RegistrySettings:
    """How to reach one registry. `endpoint`: another host (a mirror), as `https://host[:port]`. `insecure`: unverified TLS, then plain HTTP, as Docker's insecure-registries;
    loopback addresses always are. `ca_file`: PEM."""

    endpoint: str = ""
    insecure: bool = False
    ca_file: str = ""
    auth: Auth | None = None


def load_settings(path: str) -> dict[str, RegistrySettings]:
    """`{"<registry>": {"endpoint", "insecure", "ca_file", "username", "password", "identity_token"}}`. Raises ImageError naming the file and the field."""
    try:
        document = json.loads(Path(path).read_bytes())
        settings = {}
        for name, entry in document.items():
            unknown = set(entry) - {"endpoint", "insecure", "ca_file", "username", "password", "identity_token"}
            if unknown:
                raise ImageError(f'{path}: registry "{name}": unknown field "{sorted(unknown)[0]}"')
            auth = Auth(entry.get("username", ""), entry.get("password", ""), entry.get("identity_token", ""))
            settings[name] = RegistrySettings(entry.get("endpoint", ""), bool(entry.get("insecure")), entry.get("ca_file", ""), auth)
        return settings
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise ImageError(f"cannot read {path}: {error}") from error


def auth_from_docker_config(config: Mapping[str, Any], registry: str) -> Auth | None:
    """The credentials for a registry in a docker config.json (what a `kubernetes.io/dockerconfigjson` Secret holds), or None. Raises ImageError."""
    for key, entry in (config.get("auths") or {}).items():
        host = re.sub(r"^https?://", "", key).split("/")[0]
        if host == registry or (registry == "docker.io" and host in ("index.docker.io", "registry-1.docker.io")):
            if entry.get("username"):
                return Auth(entry["username"], entry.get("password", ""), entry.get("identitytoken", ""))
            try:
                username, _, password = base64.b64decode(entry.get("auth", ""), validate=True).decode().partition(":")
            except ValueError as error:
                raise ImageError(f'auths["{key}"].auth is not base64: {error}') from error
            return Auth(username, password, entry.get("identitytoken", ""))
    return None


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


class RegistryError(ImagePullError):
    """The registry answered with an error, or did not answer."""


class Repository:
    """Usable from several threads; each download has a connection of its own, idle ones are reused."""

    def __init__(self, registry: str, repository: str, settings: RegistrySettings, auth: Auth | None = None) -> None:
        endpoint = urllib.parse.urlsplit(settings.endpoint or "//" + _HOSTS.get(registry, registry))
        if not endpoint.hostname:
            raise ImagePullError(f'registry "{registry}": endpoint "{settings.endpoint}" is not a URL', retriable=False)
        self.registry, self.repository = registry, repository
        self._netloc, self._host = endpoint.netloc, endpoint.hostname
        self._insecure = settings.insecure or _is_loopback(self._host)
        self._settings, self._auth = settings, auth or settings.auth
        self._scheme = endpoint.scheme  # "" until found out
        self._authorization = ""
        self._idle: list[http.client.HTTPConnection] = []
        self._lock = threading.Lock()
        self._stopped = False

    def stop(self) -> None:
        """Downloads under way end at their next chunk with an error."""
        self._stopped = True

    def manifest(self, reference: str) -> tuple[bytes, str]:
        """(bytes, media type) of a tag or digest. Raises RegistryError."""
        response, connection = self._request(f"/v2/{self.repository}/manifests/{reference}", {"Accept": manifests.ACCEPT})
        data = self._read_whole(response, _MAX_MANIFEST)
        self._release(connection, response)
        return data, response.headers.get("Content-Type", "")

    def blob(self, digest: str, size: int) -> Iterator[bytes]:
        """The blob in chunks, resumed by Range requests when the connection breaks. Nothing is asked for before the first chunk is. Raises RegistryError; digests are the caller's to verify."""
        offset, failures = 0, 0
        while size < 0 or offset < size:
            try:
                for chunk in self._blob_from(digest, offset):
                    offset, failures = offset + len(chunk), 0
                    yield chunk
                if 0 <= offset < size:
                    raise RegistryError(f"blob {digest} is truncated: the registry has {offset} bytes of {size}")
                return
            except _BROKEN as error:
                failures += 1
                if failures >= _ATTEMPTS or self._stopped:
                    raise RegistryError(f"download of {digest} broke off after {offset} bytes: {_reason(error)}") from error
                time.sleep(0.1 * 2**failures)

    def _blob_from(self, digest: str, offset: int) -> Iterator[bytes]:
        headers = {"Range": f"bytes={offset}-"} if offset else {}
        response, connection = self._request(f"/v2/{self.repository}/blobs/{digest}", headers)
        skip = offset if offset and response.status == 200 else 0  # a server without ranges starts anew
        try:
            while data := response.read(_CHUNK):
                if self._stopped:
                    raise RegistryError("stopped: another layer failed")
                if skip:
                    data, skip = data[skip:], max(0, skip - len(data))
                if data:
                    yield data
            if response.length:  # read(n) does not tell an early end from a good one
                raise http.client.IncompleteRead(b"", response.length)
        finally:
            self._release(connection, response)

    def _request(self, path: str, headers: Mapping[str, str]) -> tuple[http.client.HTTPResponse, http.client.HTTPConnection]:
        """GET, following authentication challenges and redirects. Raises RegistryError for statuses ≥ 400."""
        for attempt in range(2):
            sent = {**headers, **({"Authorization": self._authorization} if self._authorization else {})}
            response, connection = self._get(path, sent)
            if response.status != 401 or attempt:
                break
            challenge = response.headers.get("WWW-Authenticate", "")
            self._read_whole(response, _MAX_MANIFEST)
            self._release(connection, response)
            self._authorization = self._answer(challenge)
        if response.status in (301, 302, 303, 307, 308):
            location = urllib.parse.urljoin(f"{self._scheme}://{self._netloc}{path}", response.headers.get("Location", ""))
            self._read_whole(response, _MAX_MANIFEST)
            self._release(connection, response)
            response, connection = self._follow(location, headers)
        if response.status >= 400:
            body = self._read_whole(response, _MAX_MANIFEST)
            self._release(connection, response)
            raise self._error(response, body, path)
        return response, connection

    def _get(self, path: str, headers: Mapping[str, str]) -> tuple[http.client.HTTPResponse, http.client.HTTPConnection]:
        with self._lock:
            connection = self._idle.pop() if self._idle else None
        if connection is not None:
            try:
                connection.request("GET", path, headers=dict(headers))
                return connection.getresponse(), connection
            except _BROKEN:
                connection.close()  # it idled too long
        try:
            connection = self._connect()
            connection.request("GET", path, headers=dict(headers))
            return connection.getresponse(), connection
        except _BROKEN as error:
            raise RegistryError(f'cannot reach registry "{self.registry}": Get "{self._scheme or "https"}://{self._netloc}{path}": {_reason(error)}') from error

    def _connect(self) -> http.client.HTTPConnection:
        """Finds the scheme once: HTTPS, and for insecure registries plain HTTP where TLS is not spoken."""
        if self._scheme != "http":
            connection = _open("https", self._netloc, self._tls())
            try:
                connection.connect()
                self._scheme = "https"
                return connection
            except ssl.SSLCertVerificationError:
                raise
            except (ssl.SSLError, ConnectionResetError, TimeoutError):
                if not self._insecure or self._scheme:
                    raise
        connection = _open("http", self._netloc, None)
        connection.connect()
        self._scheme = "http"
        return connection

    def _tls(self) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=self._settings.ca_file or None)
        if self._insecure and not self._settings.ca_file:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context

    def _follow(self, url: str, headers: Mapping[str, str]) -> tuple[http.client.HTTPResponse, http.client.HTTPConnection]:
        """A redirect's target, usually a storage service: never with our credentials."""
        for _ in range(5):
            parts = urllib.parse.urlsplit(url)
            if parts.scheme not in ("http", "https") or (parts.scheme == "http" and self._scheme == "https" and not self._insecure):
                raise RegistryError(f"refusing the redirect to {url}", retriable=False)
            try:
                connection = _open(parts.scheme, parts.netloc, self._tls())
                connection.request("GET", urllib.parse.urlunsplit(("", "", parts.path or "/", parts.query, "")), headers=dict(headers))
                response = connection.getresponse()
            except _BROKEN as error:
                raise RegistryError(f"cannot follow the redirect to {parts.scheme}://{parts.netloc}: {_reason(error)}") from error
            if response.status not in (301, 302, 303, 307, 308):
                return response, connection
            connection.close()
            url = urllib.parse.urljoin(url, response.headers.get("Location", ""))
        raise RegistryError(f"too many redirects from {self.registry}", retriable=False)

    def _answer(self, challenge: str) -> str:
        """A WWW-Authenticate challenge → an Authorization header."""
        scheme, _, rest = challenge.partition(" ")
        parameters = dict(_CHALLENGE.findall(rest))
        auth = self._auth or Auth()
        if scheme.lower() == "basic" and auth.username:
            return _basic(auth)
        if scheme.lower() != "bearer" or "realm" not in parameters:
            return ""
        query = {"service": parameters.get("service", ""), "scope": parameters.get("scope", "") or f"repository:{self.repository}:pull"}
        realm = urllib.parse.urlsplit(parameters["realm"])
        try:
            connection = _open(realm.scheme, realm.netloc, self._tls())
            if auth.identity_token:
                form = {**query, "grant_type": "refresh_token", "client_id": "minik", "refresh_token": auth.identity_token}
                connection.request("POST", realm.path, urllib.parse.urlencode(form), {"Content-Type": "application/x-www-form-urlencoded"})
            else:
                basic = {"Authorization": _basic(auth)} if auth.username else {}
                connection.request("GET", f"{realm.path}?{urllib.parse.urlencode(query)}", headers=basic)
            response = connection.getresponse()
            body = self._read_whole(response, _MAX_MANIFEST)
            connection.close()
            if response.status >= 400:
                raise RegistryError(f"failed to fetch a token from {parameters['realm']}: {response.status} {response.reason}", retriable=response.status >= 500)
            document = json.loads(body)
            return "Bearer " + (document.get("token") or document["access_token"])
        except (*_BROKEN, ValueError, KeyError, AttributeError) as error:
            raise RegistryError(f"failed to fetch a token from {parameters['realm']}: {_reason(error)}") from error

    def _error(self, response: http.client.HTTPResponse, body: bytes, path: str) -> RegistryError:
        try:
            first = json.loads(body)["errors"][0]
            code, message = str(first.get("code", "")), str(first.get("message", ""))
        except (ValueError, LookupError, TypeError, AttributeError):
            code, message = "", ""
        name = f"{self.registry}/{self.repository}"
        if response.status in (401, 403):
            return RegistryError(f"pull access denied for {name}, repository does not exist or may require authorization: {message or response.reason}", retriable=False)
        if response.status == 404:
            kind = "blob unknown" if "/blobs/" in path else "repository name not known to registry" if code == "NAME_UNKNOWN" else "manifest unknown"
            return RegistryError(f"{kind}: {name}: {path.rsplit('/', 1)[1]} not found", retriable=False)
        if response.status == 429:
            return RegistryError(f"toomanyrequests: {message or 'rate limit reached'} ({name})")
        return RegistryError(f"unexpected status from GET {self._scheme}://{self._netloc}{path}: {response.status} {response.reason}", retriable=response.status >= 500)

    def _read_whole(self, response: http.client.HTTPResponse, limit: int) -> bytes:
        try:
            data = response.read(limit + 1)
        except _BROKEN as error:
            raise RegistryError(f'reading from registry "{self.registry}": {_reason(error)}') from error
        if len(data) > limit:
            raise RegistryError(f'registry "{self.registry}" answered with more than {limit} bytes where a manifest was expected', retriable=False)
        return data

    def _release(self, connection: http.client.HTTPConnection, response: http.client.HTTPResponse) -> None:
        if response.isclosed() and connection.sock is not None and connection.host == self._host:
            with self._lock:
                self._idle.append(connection)
        else:
            connection.close()

    def close(self) -> None:
        for connection in self._idle:
            connection.close()
        self._idle.clear()


def _basic(auth: Auth) -> str:
    return "Basic " + base64.b64encode(f"{auth.username}:{auth.password}".encode()).decode()


def _open(scheme: str, netloc: str, tls: ssl.SSLContext | None) -> http.client.HTTPConnection:
    """Not yet connected. Through the proxy that the environment names (HTTPS_PROXY, HTTP_PROXY, NO_PROXY), but never for loopback."""
    host = urllib.parse.urlsplit("//" + netloc).hostname or ""
    proxy = urllib.request.getproxies_environment().get(scheme)
    if proxy and not _is_loopback(host) and not urllib.request.proxy_bypass(host):
        via = urllib.parse.urlsplit(proxy if "//" in proxy else "//" + proxy)
        port = via.port or 3128
        connection: http.client.HTTPConnection
        if scheme == "https":
            connection = http.client.HTTPSConnection(via.hostname or "", port, timeout=TIMEOUT_S, context=tls)
        else:
            connection = http.client.HTTPConnection(via.hostname or "", port, timeout=TIMEOUT_S)
        headers = {"Proxy-Authorization": _basic(Auth(urllib.parse.unquote(via.username), urllib.parse.unquote(via.password or "")))} if via.username else {}
        target = urllib.parse.urlsplit("//" + netloc)
        connection.set_tunnel(target.hostname or "", target.port or (443 if scheme == "https" else 80), headers)
        return connection
    if scheme == "https":
        return http.client.HTTPSConnection(netloc, timeout=TIMEOUT_S, context=tls)
    return http.client.HTTPConnection(netloc, timeout=TIMEOUT_S)


def _reason(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror and not isinstance(error, ssl.SSLError):
        return error.strerror[0].lower() + error.strerror[1:]
    return str(error) or type(error).__name__
