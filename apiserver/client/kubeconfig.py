"""Reads a kubeconfig (or the in-cluster mount) into a ClientConfig. Every component and the CLI start here.

Refuses exec and auth-provider plugins: they are named in the error. YAML is imported only for files that are not JSON.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
from typing import Any

from apiserver.client.config import ClientConfig, ConfigError

__all__ = ["ADMIN_KUBECONFIG", "IN_CLUSTER_DIR", "load", "load_in_cluster", "parse"]

ADMIN_KUBECONFIG = "/var/lib/minik/admin.kubeconfig"
IN_CLUSTER_DIR = "/var/run/secrets/kubernetes.io/serviceaccount"


def load(path: str | None = None, context: str | None = None, *, environ: dict[str, str] | None = None) -> ClientConfig:
    """The first of: `path`, $KUBECONFIG (its first existing file), the pod's ServiceAccount, the local cluster's admin kubeconfig, ~/.kube/config. Raises ConfigError."""
    env = dict(os.environ) if environ is None else environ
    if path:
        return _load_file(path, context)
    if env.get("KUBECONFIG"):
        files = [p for p in env["KUBECONFIG"].split(os.pathsep) if p]
        return _load_file(next((p for p in files if os.path.exists(p)), files[0] if files else env["KUBECONFIG"]), context)
    if env.get("KUBERNETES_SERVICE_HOST") and os.path.exists(f"{IN_CLUSTER_DIR}/token"):
        return load_in_cluster(env)
    home = os.path.join(env.get("HOME", "/root"), ".kube", "config")
    for candidate in (ADMIN_KUBECONFIG, home):
        if os.path.exists(candidate):
            return _load_file(candidate, context)
    raise ConfigError(f"no kubeconfig: give --kubeconfig, set $KUBECONFIG, or start a cluster here ({ADMIN_KUBECONFIG} does not exist)")


def load_in_cluster(environ: dict[str, str], directory: str = IN_CLUSTER_DIR) -> ClientConfig:
    """What a pod has: $KUBERNETES_SERVICE_HOST, $KUBERNETES_SERVICE_PORT and the mounted token, ca.crt and namespace."""
    host, port = environ["KUBERNETES_SERVICE_HOST"], environ.get("KUBERNETES_SERVICE_PORT", "443")
    host = f"[{host}]" if ":" in host else host
    namespace = _read(f"{directory}/namespace").decode().strip() if os.path.exists(f"{directory}/namespace") else "default"
    return ClientConfig(server=f"https://{host}:{port}", ca_data=_read(f"{directory}/ca.crt"), token_file=f"{directory}/token", namespace=namespace)


def _load_file(path: str, context: str | None) -> ClientConfig:
    return parse(_read(path).decode(errors="replace"), path, context)


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as f:
            return f.read()
    except OSError as e:
        raise ConfigError(f"cannot read {path}: {e.strerror}") from None


def parse(text: str, path: str, context: str | None = None) -> ClientConfig:
    """`path` names the file in errors and is what relative file names in it are relative to. Raises ConfigError."""
    document = _document(text, path)
    name = context or document.get("current-context") or ""
    if not name:
        raise ConfigError(f"{path}: current-context is not set; give --context")
    chosen = _named(document, "contexts", "context", name, path)
    cluster = _named(document, "clusters", "cluster", chosen.get("cluster") or "", path)
    user = _named(document, "users", "user", chosen["user"], path) if chosen.get("user") else {}
    for plugin in ("exec", "auth-provider"):
        if user.get(plugin):
            raise ConfigError(f"{path}: user {chosen['user']!r}: {plugin} is not supported; use a token or a client certificate")
    if not isinstance(cluster.get("server"), str):
        raise ConfigError(f"{path}: cluster {chosen['cluster']!r}: server is missing")
    config = ClientConfig(
        server=cluster["server"].rstrip("/"),
        ca_data=_material(cluster, "certificate-authority", path),
        cert_data=_material(user, "client-certificate", path),
        key_data=_material(user, "client-key", path),
        token=user.get("token") or "",
        token_file=_relative(user.get("tokenFile") or "", path),
        insecure=bool(cluster.get("insecure-skip-tls-verify")),
        tls_server_name=cluster.get("tls-server-name") or "",
        namespace=chosen.get("namespace") or "default",
    )
    try:
        _ = config.address
    except ConfigError as e:
        raise ConfigError(f"{path}: cluster {chosen['cluster']!r}: {e}") from None
    return config


def _document(text: str, path: str) -> dict[str, Any]:
    try:
        if text.lstrip().startswith("{"):
            document = json.loads(text)
        else:
            import yaml

            try:
                document = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
            except yaml.YAMLError as e:
                raise ConfigError(f"{path}: {' '.join(str(e).split())}") from None
    except json.JSONDecodeError as e:
        raise ConfigError(f"{path}: {e}") from None
    if not isinstance(document, dict):
        raise ConfigError(f"{path}: not a kubeconfig: expected a mapping with clusters, users and contexts")
    return document


def _named(document: dict[str, Any], section: str, field: str, name: str, path: str) -> dict[str, Any]:
    entries = document.get(section) or []
    if not isinstance(entries, list):
        raise ConfigError(f"{path}: {section}: expected a list")
    for entry in entries:
        if isinstance(entry, dict) and entry.get("name") == name:
            value = entry.get(field)
            if isinstance(value, dict):
                return value
            raise ConfigError(f"{path}: {section}: {name!r}: {field} is missing")
    raise ConfigError(f"{path}: {field} {name!r} does not exist in {section}")


def _material(entry: dict[str, Any], field: str, path: str) -> bytes:
    if entry.get(f"{field}-data"):
        try:
            return base64.b64decode(entry[f"{field}-data"], validate=True)
        except (binascii.Error, ValueError, TypeError) as e:
            raise ConfigError(f"{path}: {field}-data: not base64: {e}") from None
    return _read(_relative(entry[field], path)) if entry.get(field) else b""


def _relative(name: str, path: str) -> str:
    return os.path.join(os.path.dirname(os.path.abspath(path)), name) if name else ""
