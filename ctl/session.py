"""What every command works with: the client, the namespace, and how a typed resource name or a document's kind becomes a Resource. Also the texts of errors, in kubectl's words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from apiserver.api import errors, kinds
from apiserver.client.blocking import BlockingClient
from apiserver.client.requests import ServerUnreachable

Obj = dict[str, Any]


class CommandError(Exception):
    """The user asked for what cannot be; its text is one line, shown behind `error: `."""


@dataclass(slots=True)
class Session:
    client: BlockingClient
    namespace: str
    explicit_namespace: bool  # given by -n, so that documents may not name another

    def namespace_of(self, resource: kinds.Resource, obj: Obj | None = None) -> str:
        """Where an object of this resource lives for this call, "" for cluster-scoped. Raises CommandError on a contradiction."""
        if not resource.namespaced:
            return ""
        own = ((obj or {}).get("metadata") or {}).get("namespace") or ""
        if own and self.explicit_namespace and own != self.namespace:
            raise CommandError(f'the namespace from the provided object "{own}" does not match the namespace "{self.namespace}". You must pass \'--namespace={own}\' to perform this operation.')
        return own or self.namespace

    def resource(self, name: str) -> kinds.Resource:
        """A typed name (`po`, `pods`, `deploy.apps`), built in or served besides. Raises CommandError."""
        found = kinds.lookup(name) or self._discover(lambda r: name.lower() in (r.plural, r.singular, r.group_resource, *r.short_names))
        if found is None:
            raise CommandError(f'the server doesn\'t have a resource type "{name}"')
        return found

    def resource_of(self, obj: Obj, source: str) -> kinds.Resource:
        """The resource of a document. Raises CommandError that names the source."""
        version, kind = obj.get("apiVersion"), obj.get("kind")
        for field, value in (("apiVersion", version), ("kind", kind)):
            if not isinstance(value, str) or not value:
                raise CommandError(f"error validating {source}: {field} not set")
        assert isinstance(version, str) and isinstance(kind, str)
        found = kinds.for_kind(version, kind) or self._discover(lambda r: (r.api_version, r.kind) == (version, kind))
        if found is None:
            name = (obj.get("metadata") or {}).get("name", "")
            raise CommandError(f'resource mapping not found for name: "{name}" from {source}: no matches for kind "{kind}" in version "{version}"')
        return found

    def _discover(self, matches: Any) -> kinds.Resource | None:
        return next((r for r in discover(self.client) if matches(r)), None)


DISCOVERY = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json"


def discover(client: BlockingClient) -> list[kinds.Resource]:
    """Everything the server serves, by aggregated discovery (apidiscovery.k8s.io/v2), in the server's order."""
    found = []
    for path in ("/api", "/apis"):
        for group in client.request("GET", path, accept=DISCOVERY).json().get("items", []):
            for version in group.get("versions", []):
                for r in version.get("resources", []):
                    found.append(
                        kinds.Resource(
                            group=(group.get("metadata") or {}).get("name", ""), version=version["version"], kind=r["responseKind"]["kind"], plural=r["resource"],
                            singular=r.get("singularResource", ""), namespaced=r["scope"] == "Namespaced", short_names=tuple(r.get("shortNames", ())),
                            categories=tuple(r.get("categories", ())), verbs=tuple(r.get("verbs", ())),
                        )
                    )  # fmt: skip
    return found


def qualified(resource: kinds.Resource, name: str) -> str:
    """`pod/x`, `deployment.apps/x`: as `-o name` and the verbs' messages print it."""
    kind = resource.singular or resource.kind.lower()
    return f"{kind}.{resource.group}/{name}" if resource.group else f"{kind}/{name}"


def describe_error(error: Exception, doing: str = "") -> str:
    """One text for the terminal. `doing` is what was tried, like `error when creating "f.yaml"`."""
    if isinstance(error, ServerUnreachable):
        return _unreachable(error)
    if isinstance(error, errors.ApiError):
        between = f"{doing}: " if doing else ""
        if error.reason == "Invalid" and not doing:
            return f"The {error.message}"
        reason = f" ({error.reason})" if error.reason else ""
        return f"Error from server{reason}: {between}{error.message}"
    return f"error: {doing + ': ' if doing else ''}{error}"


def _unreachable(error: ServerUnreachable) -> str:
    text = error.message
    if "connection refused" in text:
        server = text.removeprefix("cannot reach ").split(": ")[0].split("://")[-1]
        return f"The connection to the server {server} was refused - did you specify the right host or port?"
    return f"Unable to connect to the server: {text}"
