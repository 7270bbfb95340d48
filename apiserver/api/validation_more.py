"""Rules of RBAC, autoscaling, disruption budgets, classes, signing requests and custom resource definitions. Pure; validation.py calls it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from apiserver.api import names
from apiserver.api.causes import at_least, forbidden, immutable, invalid, items, not_supported, one_of, required, section, strings
from apiserver.api.errors import Cause
from apiserver.api.validation_scheduling import selector_causes

JSON = dict[str, Any]
RBAC = "rbac.authorization.k8s.io"
HIGHEST_USER_PRIORITY = 1_000_000_000
USAGES = frozenset(
    ("signing", "digital signature", "content commitment", "key encipherment", "key agreement", "data encipherment", "cert sign", "crl sign", "encipher only",
     "decipher only", "any", "server auth", "client auth", "code signing", "email protection", "s/mime", "ipsec end system", "ipsec tunnel", "ipsec user",
     "timestamping", "ocsp signing", "microsoft sgc", "netscape sgc")
)


def role_causes(obj: JSON) -> Iterator[Cause]:
    cluster = obj.get("kind") == "ClusterRole"
    for where, rule in items(obj, "rules", ""):
        if not rule.get("verbs"):
            yield required(f"{where}.verbs", "verbs must contain at least one value")
        if rule.get("nonResourceURLs"):
            if not cluster:
                yield invalid(f"{where}.nonResourceURLs", rule["nonResourceURLs"], "namespaced rules cannot apply to non-resource URLs")
            if rule.get("apiGroups") or rule.get("resources") or rule.get("resourceNames"):
                yield invalid(f"{where}.nonResourceURLs", rule["nonResourceURLs"], "rules cannot apply to both regular resources and non-resource URLs")
            continue
        if not rule.get("apiGroups"):
            yield required(f"{where}.apiGroups", "resource rules must supply at least one api group")
        if not rule.get("resources"):
            yield required(f"{where}.resources", "resource rules must supply at least one resource")
    aggregation = section(obj, "aggregationRule")
    for where, selector in items(aggregation, "clusterRoleSelectors", "aggregationRule"):
        yield from selector_causes(selector, where)


def role_binding_causes(obj: JSON) -> Iterator[Cause]:
    yield from _binding(obj, ("ClusterRole", "Role"))


def cluster_role_binding_causes(obj: JSON) -> Iterator[Cause]:
    yield from _binding(obj, ("ClusterRole",))


def _binding(obj: JSON, role_kinds: tuple[str, ...]) -> Iterator[Cause]:
    reference = section(obj, "roleRef")
    yield from one_of("roleRef.apiGroup", reference.get("apiGroup", ""), (RBAC,))
    yield from one_of("roleRef.kind", reference.get("kind", ""), role_kinds)
    if not reference.get("name"):
        yield required("roleRef.name")
    else:
        yield from (invalid("roleRef.name", reference["name"], text) for text in names.path_segment(reference["name"]))
    for where, subject in items(obj, "subjects", ""):
        if not subject.get("name"):
            yield required(f"{where}.name")
        kind = subject.get("kind") or ""
        if kind == "ServiceAccount":
            if subject.get("name"):
                yield from (invalid(f"{where}.name", subject["name"], text) for text in names.dns_subdomain(subject["name"]))
            if subject.get("apiGroup"):
                yield not_supported(f"{where}.apiGroup", subject["apiGroup"], ("",))
            if not subject.get("namespace"):
                yield required(f"{where}.namespace")
        elif kind in ("User", "Group"):
            yield from one_of(f"{where}.apiGroup", subject.get("apiGroup", ""), (RBAC,))
        else:
            yield not_supported(f"{where}.kind", kind, ("Group", "ServiceAccount", "User"))


def role_binding_update_causes(new: JSON, old: JSON) -> Iterator[Cause]:
    if new.get("roleRef") != old.get("roleRef"):
        yield invalid("roleRef", new.get("roleRef"), "cannot change roleRef")


def autoscaler_causes(obj: JSON) -> Iterator[Cause]:
    spec = section(obj, "spec")
    least, most = spec.get("minReplicas", 1), spec.get("maxReplicas", 0)
    if least < 1:
        yield invalid("spec.minReplicas", least, "must be greater than or equal to 1")
    if most < 1:
        yield invalid("spec.maxReplicas", most, "must be greater than 0")
    if least > most >= 1:
        yield invalid("spec.maxReplicas", most, "must be greater than or equal to `minReplicas`")
    target = section(spec, "scaleTargetRef")
    yield from (required(f"spec.scaleTargetRef.{field}") for field in ("kind", "name") if not target.get(field))


def budget_causes(obj: JSON) -> Iterator[Cause]:
    spec = section(obj, "spec")
    if spec.get("minAvailable") is not None and spec.get("maxUnavailable") is not None:
        yield invalid("spec", {"maxUnavailable": spec["maxUnavailable"], "minAvailable": spec["minAvailable"]}, "minAvailable and maxUnavailable cannot be both set")
    for field in ("minAvailable", "maxUnavailable"):
        yield from at_least(f"spec.{field}", spec.get(field))
        value = spec.get(field)
        if isinstance(value, str) and not (value.endswith("%") and value[:-1].isdigit() and int(value[:-1]) <= 100):
            yield invalid(f"spec.{field}", value, "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')")
    if isinstance(spec.get("selector"), dict):
        yield from selector_causes(spec["selector"], "spec.selector")


def storage_class_causes(obj: JSON) -> Iterator[Cause]:
    if not obj.get("provisioner"):
        yield required("provisioner")
    yield from one_of("reclaimPolicy", obj.get("reclaimPolicy", "Delete"), ("Delete", "Retain"))
    yield from one_of("volumeBindingMode", obj.get("volumeBindingMode", "Immediate"), ("Immediate", "WaitForFirstConsumer"))


def storage_class_update_causes(new: JSON, old: JSON) -> Iterator[Cause]:
    if new.get("provisioner") != old.get("provisioner"):
        yield forbidden("provisioner", "updates to provisioner are forbidden.")
    if (new.get("parameters") or {}) != (old.get("parameters") or {}):
        yield forbidden("parameters", "updates to parameters are forbidden.")
    if new.get("reclaimPolicy") != old.get("reclaimPolicy"):
        yield forbidden("reclaimPolicy", "updates to reclaimPolicy are forbidden.")
    yield from immutable("volumeBindingMode", new.get("volumeBindingMode"), old.get("volumeBindingMode"))


def priority_class_causes(obj: JSON) -> Iterator[Cause]:
    name, value = section(obj, "metadata").get("name") or "", obj.get("value", 0)
    if name.startswith("system-") and name not in ("system-cluster-critical", "system-node-critical"):
        yield forbidden("metadata.name", "priority class names with 'system-' prefix are reserved for system use only")
    if not name.startswith("system-") and value > HIGHEST_USER_PRIORITY:
        yield forbidden("value", f"maximum allowed value of a user defined priority is {HIGHEST_USER_PRIORITY}")
    yield from one_of("preemptionPolicy", obj.get("preemptionPolicy", "PreemptLowerPriority"), ("Never", "PreemptLowerPriority"))


def priority_class_update_causes(new: JSON, old: JSON) -> Iterator[Cause]:
    if new.get("value", 0) != old.get("value", 0):
        yield forbidden("value", "may not be changed in an update.")
    yield from immutable("preemptionPolicy", new.get("preemptionPolicy"), old.get("preemptionPolicy"))


def runtime_class_causes(obj: JSON) -> Iterator[Cause]:
    handler = obj.get("handler") or ""
    yield from (invalid("handler", handler, text) for text in names.dns_label(handler))


def runtime_class_update_causes(new: JSON, old: JSON) -> Iterator[Cause]:
    yield from immutable("handler", new.get("handler"), old.get("handler"))


def signing_request_causes(obj: JSON) -> Iterator[Cause]:
    spec = section(obj, "spec")
    if not spec.get("request"):
        yield required("spec.request")
    signer = spec.get("signerName") or ""
    if not signer:
        yield required("spec.signerName")
    elif "/" not in signer:
        yield invalid("spec.signerName", signer, 'must be a fully qualified domain and path of the form "example.com/signer-name"')
    if not spec.get("usages"):
        yield required("spec.usages", "usages are required")
    for where, usage in strings(spec, "usages", "spec"):
        yield from one_of(where, usage, USAGES)


def definition_causes(obj: JSON) -> Iterator[Cause]:
    spec = section(obj, "spec")
    plural = section(spec, "names").get("plural") or ""
    wanted = f"{plural}.{spec.get('group') or ''}"
    name = section(obj, "metadata").get("name") or ""
    if name != wanted:
        yield invalid("metadata.name", name, "must be spec.names.plural+\".\"+spec.group")
    if not spec.get("group"):
        yield required("spec.group")
    else:
        yield from (invalid("spec.group", spec["group"], text) for text in names.dns_subdomain(spec["group"]))
    yield from one_of("spec.scope", spec.get("scope", ""), ("Cluster", "Namespaced"))
    for field in ("plural", "kind"):
        if not section(spec, "names").get(field):
            yield required(f"spec.names.{field}")
    if not spec.get("versions"):
        yield required("spec.versions", "must have at least one version")
    elif sum(1 for _, version in items(spec, "versions", "") if version.get("storage")) != 1:
        yield invalid("spec.versions", "", "must have exactly one version marked as storage version")
    for where, version in items(spec, "versions", "spec"):
        yield from (invalid(f"{where}.name", version.get("name", ""), text) for text in names.dns_1035_label(version.get("name") or ""))
        if not section(version, "schema").get("openAPIV3Schema"):
            yield required(f"{where}.schema.openAPIV3Schema", "schemas are required")
