"""POST, PUT, PATCH, DELETE over the wire's forms; reviews; permissions; every refusal a Status."""

import json

import pytest

from apiserver.auth.user import UserInfo
from apiserver.rest import components

CMS = "/api/v1/namespaces/a/configmaps"
POD = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]}}


async def test_create_answers_201_and_the_object(api):
    made = await api.create(CMS, {"metadata": {"name": "x"}, "data": {"a": "b"}})
    assert made["metadata"]["uid"]
    again = await api.request("POST", CMS, {"metadata": {"name": "x"}})
    assert (again.status, again.json()["reason"], again.message) == (409, "AlreadyExists", 'configmaps "x" already exists')


async def test_yaml_bodies(api):
    answer = await api.request("POST", CMS, b"metadata:\n  name: x\ndata:\n  a: 'yes'\n", Content_Type="application/yaml")
    assert answer.status == 201, answer.body
    assert answer.json()["data"] == {"a": "yes"}


@pytest.mark.parametrize(
    ("body", "headers", "status", "text"),
    [
        (b"{bad", {}, 400, "json parse error"),
        (b"[]", {}, 400, "not an object"),
        (b"", {}, 400, "empty body"),
        (b"[" * 3000, {}, 400, "json parse error"),
        (b'{"metadata":{"name":"x"},"data":{"a":' + b"[" * 900 + b"]" * 900 + b"}}", {}, 400, "cannot encode object"),
        (b"{}", {"Content_Type": "text/plain"}, 415, "accepted media types"),
        (b"{}", {"Content_Type": "application/cbor"}, 415, "accepted media types"),
        (b"k8s\0garbage", {"Content_Type": "application/vnd.kubernetes.protobuf"}, 400, "protobuf"),
        (b"nonsense", {"Content_Type": "application/vnd.kubernetes.protobuf"}, 400, "protobuf"),
        (b"a: [", {"Content_Type": "application/yaml"}, 400, "YAML"),
        (b"a: 1\n---\nb: 2\n", {"Content_Type": "application/yaml"}, 400, "one YAML document"),
        (b'{"apiVersion":"v2","metadata":{"name":"x"}}', {}, 400, "apiVersion"),
        (b'{"kind":"Pod","metadata":{"name":"x"}}', {}, 400, "kind"),
        (b'{"metadata":{"name":"X_"}}', {}, 422, "metadata.name"),
        (b'{"metadata":{"name":"x","namespace":"b"}}', {}, 400, "namespace"),
        (b'{"metadata":{"name":"x"},"data":{"a":1}}', {}, 400, "data.a"),
        (b" " * (components.MAX_BODY_BYTES + 1), {}, 413, "Request entity too large"),
    ],
)
async def test_a_body_that_is_no_configmap_is_refused_and_says_why(api, body, headers, status, text):
    answer = await api.request("POST", CMS, body, **headers)
    assert (answer.status, answer.json()["kind"], answer.json()["code"]) == (status, "Status", status)
    assert text in answer.message
    assert (await api.request("GET", CMS)).json()["items"] == []


async def test_unknown_and_double_fields(api):
    unknown = POD | {"spec": POD["spec"] | {"nodeNames": "x"}}
    double = json.dumps(POD).replace('"name": "p"', '"name": "q", "name": "p"').encode()
    for body, name in ((unknown, 'unknown field "spec.nodeNames"'), (double, 'duplicate field "metadata.name"')):
        strict = await api.request("POST", "/api/v1/namespaces/a/pods?fieldValidation=Strict&dryRun=All", body)
        assert strict.status == 400
        assert f"strict decoding error: {name}" in strict.message


async def test_a_warning_is_a_header(api):
    answer = await api.request("POST", CMS, {"metadata": {"name": "x"}, "nope": 1})
    assert answer.status == 201
    assert answer.headers["warning"] == '299 - "unknown field \\"nope\\""'
    assert "warning" not in (await api.request("POST", f"{CMS}?fieldValidation=Ignore", {"metadata": {"name": "y"}, "nope": 1})).headers


@pytest.mark.parametrize(
    ("query", "status", "text"),
    [
        ("fieldValidation=Sometimes", 422, "fieldValidation"), ("dryRun=Some", 400, "dryRun"), ("fieldManager=" + "x" * 129, 422, "fieldManager"),
        ("fieldManager=%00", 422, "fieldManager"),
    ],
)  # fmt: skip
async def test_parameters_that_cannot_be(api, query, status, text):
    answer = await api.request("POST", f"{CMS}?{query}", {"metadata": {"name": "x"}})
    assert answer.status == status
    assert text in answer.message


async def test_dry_run_stores_nothing(api):
    assert (await api.request("POST", f"{CMS}?dryRun=All", {"metadata": {"name": "x"}})).status == 201
    assert (await api.request("GET", f"{CMS}/x")).status == 404


async def test_update_and_conflict(api):
    made = await api.create(CMS, {"metadata": {"name": "x"}, "data": {"a": "1"}})
    made["data"]["a"] = "2"
    assert (await api.request("PUT", f"{CMS}/x", made)).json()["data"] == {"a": "2"}
    stale = await api.request("PUT", f"{CMS}/x", made)
    assert (stale.status, stale.json()["reason"]) == (409, "Conflict")
    assert "the object has been modified" in stale.message


@pytest.mark.parametrize(
    ("media", "patch", "data"),
    [
        ("application/merge-patch+json", {"data": {"a": None, "b": "2"}}, {"b": "2"}),
        ("application/strategic-merge-patch+json", {"data": {"b": "2"}}, {"a": "1", "b": "2"}),
        ("application/json-patch+json", [{"op": "replace", "path": "/data/a", "value": "9"}], {"a": "9"}),
    ],
)
async def test_patches(api, media, patch, data):
    await api.create(CMS, {"metadata": {"name": "x"}, "data": {"a": "1"}})
    answer = await api.request("PATCH", f"{CMS}/x", patch, Content_Type=media)
    assert (answer.status, answer.json()["data"]) == (200, data)


@pytest.mark.parametrize(
    ("media", "body", "status", "text"),
    [
        ("application/json", b"{}", 415, "application/merge-patch+json"),
        ("application/merge-patch+json", b"{bad", 400, "error decoding patch"),
        ("application/merge-patch+json", b"", 400, "empty body"),
        ("application/json-patch+json", b"{}", 400, "list"),
        ("application/json-patch+json", b'[{"op":"test","path":"/data/a","value":"7"}]', 422, ""),
        ("application/apply-patch+yaml", b"{}", 422, "fieldManager"),
    ],
)
async def test_faulty_patches(api, media, body, status, text):
    await api.create(CMS, {"metadata": {"name": "x"}, "data": {"a": "1"}})
    answer = await api.request("PATCH", f"{CMS}/x", body, Content_Type=media)
    assert answer.status == status, answer.body
    assert text in answer.message
    assert (await api.request("GET", f"{CMS}/x")).json()["data"] == {"a": "1"}


async def test_delete(api):
    await api.create(CMS, {"metadata": {"name": "x"}})
    answer = await api.request("DELETE", f"{CMS}/x", {"kind": "DeleteOptions", "apiVersion": "v1"})
    assert (answer.status, answer.json()["status"]) == (200, "Success")
    assert (await api.request("DELETE", f"{CMS}/x")).status == 404


async def test_delete_options_in_the_query(api):
    made = await api.create(CMS, {"metadata": {"name": "x", "finalizers": ["example.com/keep"]}})
    waiting = await api.request("DELETE", f"{CMS}/x?propagationPolicy=Background&gracePeriodSeconds=0")
    assert waiting.json()["metadata"]["deletionTimestamp"]
    stale = {"preconditions": {"uid": "another"}}
    assert (await api.request("DELETE", f"{CMS}/x", stale)).status == 409
    assert made["metadata"]["uid"] == (await api.request("GET", f"{CMS}/x")).json()["metadata"]["uid"]
    assert (await api.request("DELETE", f"{CMS}/x?gracePeriodSeconds=-1")).status == 400


async def test_delete_collection_takes_what_is_selected(api):
    for n in range(4):
        await api.create(CMS, {"metadata": {"name": f"c{n}", "labels": {"odd": str(n % 2)}}})
    assert (await api.request("DELETE", f"{CMS}?labelSelector=odd%3D1&fieldSelector=spec.x%3D1")).status == 400
    assert (await api.request("DELETE", f"{CMS}?labelSelector=odd%3D1")).status == 200
    assert [item["metadata"]["name"] for item in (await api.request("GET", CMS)).json()["items"]] == ["c0", "c2"]


ROUTES = [
    ("GET", "/nope", 404), ("GET", "/api/v2/pods", 404), ("GET", "/api/v1/nopes", 404), ("GET", "/apis/apps/v1/namespaces/a/pods", 404), ("GET", "/api/v1/namespaces/a/nodes", 404),
    ("GET", "/api/v1/pods/p", 404), ("GET", "/api/v1/namespaces//pods", 404), ("GET", "/api/v1/namespaces/a/pods/p/nope", 404), ("GET", "/api/v1/namespaces/a/pods/p/log/x", 404),
    ("POST", "/api/v1/pods", 405), ("PUT", "/api/v1/namespaces/a/pods", 405), ("PATCH", "/api/v1/namespaces/a/pods", 405), ("POST", "/api/v1/namespaces/a/pods/p", 405),
    ("DELETE", "/api/v1/namespaces", 405), ("DELETE", "/api/v1/namespaces/a/pods/p/status", 405), ("GET", "/api/v1/namespaces/a/pods/p/binding", 405), ("OPTIONS", "/api/v1/pods", 405),
    ("GET", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", 405), ("POST", "/apis", 405), ("POST", "/version", 405), ("GET", "/api/v1/namespaces/a/pods/p/exec", 404),
    ("BREW", "/api/v1/pods", 405), ("GET", "/apis/nope.example.com/v1", 404), ("GET", "/openapi/v3/apis/nope/v1", 404), ("GET", "/api/v1/namespaces/a/pods/p/proxy/x", 405),
]  # fmt: skip


@pytest.mark.parametrize(("method", "path", "status"), ROUTES)
async def test_what_is_not_there_or_not_allowed(api, method, path, status):
    answer = await api.request(method, path, {} if method in ("POST", "PUT", "PATCH") else None)
    assert (answer.status, answer.json()["kind"], answer.json()["code"]) == (status, "Status", status), answer.body
    if path.startswith("/nope") or status == 405:
        texts = {404: "the server could not find the requested resource", 405: "the server does not allow this method on the requested resource"}
        assert answer.message.startswith(texts[status])


@pytest.mark.parametrize("accept", ["application/vnd.kubernetes.protobuf", "text/html", "application/json;as=Table;v=v9;g=meta.k8s.io"])
async def test_an_answer_nobody_can_give_is_not_acceptable(api, accept):
    answer = await api.request("GET", CMS, Accept=accept)
    assert (answer.status, answer.json()["reason"]) == (406, "NotAcceptable")


async def test_without_credentials_only_health_and_version(api):
    for path, status in (("/version", 200), ("/readyz", 200), ("/livez/ping", 200), ("/healthz?verbose", 200), ("/api", 401), ("/", 401), ("/metrics", 401), (CMS, 401), ("/nope", 401)):
        answer = await api.request("GET", path, user=None)
        assert answer.status == status, path
        if status == 401:
            assert (answer.json()["reason"], answer.message) == ("Unauthorized", "Unauthorized")
            assert answer.headers["www-authenticate"]


async def test_rbac_decides(api):
    jane = {"user": None, "Authorization": "Bearer jane-token"}
    refused = await api.request("GET", f"{CMS}/x", **jane)
    assert (refused.status, refused.json()["reason"]) == (403, "Forbidden")
    assert refused.message == 'configmaps "x" is forbidden: User "jane" cannot get resource "configmaps" in API group "" in the namespace "a"'
    rbac = "/apis/rbac.authorization.k8s.io/v1"
    await api.create(f"{rbac}/namespaces/a/roles", {"metadata": {"name": "r"}, "rules": [{"verbs": ["get"], "apiGroups": [""], "resources": ["configmaps"], "resourceNames": ["x"]}]})
    binding = {"metadata": {"name": "b"}, "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "r"}, "subjects": [{"kind": "User", "name": "jane"}]}
    made = await api.create(f"{rbac}/namespaces/a/rolebindings", binding)
    await api.cache.wait_for(int(made["metadata"]["resourceVersion"]))
    assert (await api.request("GET", f"{CMS}/x", **jane)).status == 404
    assert (await api.request("GET", f"{CMS}/y", **jane)).status == 403
    assert (await api.request("GET", f"{CMS}?fieldSelector=metadata.name%3Dx", **jane)).status == 403  # get is not list
    review = await api.request("POST", "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews", {"spec": {"namespace": "a"}})
    assert review.json()["status"]["resourceRules"][0] == {"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}
    question = {"spec": {"user": "jane", "resourceAttributes": {"verb": "get", "resource": "configmaps", "namespace": "a", "name": "x"}}}
    for resource in ("subjectaccessreviews", "namespaces/a/localsubjectaccessreviews"):
        answer = await api.request("POST", f"/apis/authorization.k8s.io/v1/{resource}", question)
        assert answer.json()["status"] == {"allowed": True, "reason": 'RBAC: allowed by RoleBinding "b/a" of Role "r" to User "jane"'}
    question["spec"]["resourceAttributes"]["name"] = "y"
    assert (await api.request("POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews", question)).json()["status"] == {"allowed": False}


@pytest.mark.parametrize(
    ("resource", "spec", "status"),
    [
        ("subjectaccessreviews", {}, 422), ("subjectaccessreviews", {"user": "x"}, 422), ("subjectaccessreviews", {"user": "x", "resourceAttributes": 1}, 400),
        ("selfsubjectaccessreviews", {}, 422), ("selfsubjectrulesreviews", {}, 400), ("selfsubjectaccessreviews", [], 422), ("selfsubjectaccessreviews", "text", 400),
    ],
)  # fmt: skip
async def test_faulty_reviews(api, resource, spec, status):
    answer = await api.request("POST", f"/apis/authorization.k8s.io/v1/{resource}", {"spec": spec})
    assert answer.status == status, answer.body


async def test_tokens_are_issued_and_reviewed(api):
    account = await api.create("/api/v1/namespaces/a/serviceaccounts", {"metadata": {"name": "builder"}})
    answer = await api.request("POST", "/api/v1/namespaces/a/serviceaccounts/builder/token", {"spec": {"expirationSeconds": 600}})
    assert answer.status == 201, answer.body
    token = answer.json()["status"]["token"]
    await api.cache.wait_for(int(account["metadata"]["resourceVersion"]))
    review = (await api.request("POST", "/apis/authentication.k8s.io/v1/tokenreviews", {"spec": {"token": token}})).json()
    assert review["status"]["authenticated"] is True
    assert review["status"]["user"]["username"] == "system:serviceaccount:a:builder"
    wrong = (await api.request("POST", "/apis/authentication.k8s.io/v1/tokenreviews", {"spec": {"token": "x.y.z"}})).json()
    assert wrong["status"]["authenticated"] is False
    assert review["status"]["user"]["groups"] == ["system:serviceaccounts", "system:serviceaccounts:a", "system:authenticated"]
    known = await api.request("GET", CMS, user=None, Authorization=f"Bearer {token}")
    assert known.status == 403
    assert 'User "system:serviceaccount:a:builder" cannot list resource "configmaps"' in known.message


async def test_a_fault_of_ours_is_a_500_and_the_server_goes_on(api, monkeypatch):
    async def broken(*_):
        raise KeyError("boom")

    monkeypatch.setattr(api.components.registry, "create", broken)
    answer = await api.request("POST", CMS, {"metadata": {"name": "x"}})
    assert (answer.status, answer.json()["reason"]) == (500, "InternalError")
    assert (await api.request("GET", CMS)).status == 200


async def test_metrics_count_what_was_served(api):
    for _ in range(3):
        await api.request("GET", f"{CMS}/nope")
    text = (await api.request("GET", "/metrics")).body.decode()
    assert 'apiserver_request_total{verb="get",group="",resource="configmaps",subresource="",code="404"} 3' in text
    assert 'apiserver_request_duration_seconds_count{verb="get",group="",resource="configmaps",subresource=""} 3' in text


async def test_impersonation_takes_the_others_rights_and_name(api):
    await api.create(CMS, {"metadata": {"name": "x"}})
    as_jane = {"Impersonate_User": "jane", "Impersonate_Group": "devs"}
    refused = await api.request("GET", f"{CMS}/x", **as_jane)
    assert (refused.status, 'User "jane" cannot get resource "configmaps"' in refused.message) == (403, True)
    rbac = "/apis/rbac.authorization.k8s.io/v1"
    await api.create(f"{rbac}/clusterroles", {"metadata": {"name": "reads"}, "rules": [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get"]}]})
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "reads"}
    await api.create(f"{rbac}/clusterrolebindings", {"metadata": {"name": "devs"}, "roleRef": role, "subjects": [{"kind": "Group", "name": "devs", "apiGroup": "rbac.authorization.k8s.io"}]})
    assert (await api.request("GET", f"{CMS}/x", **as_jane)).status == 200
    assert (await api.request("DELETE", f"{CMS}/x", **as_jane)).status == 403
    as_jane["Impersonate_Group"] = "system:masters"
    review = await api.request("POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews", {"kind": "SelfSubjectReview"}, **as_jane)
    assert review.json()["status"]["userInfo"] == {"username": "jane", "groups": ["system:masters", "system:authenticated"]}


async def test_impersonation_must_be_allowed(api):
    nobody = UserInfo("nobody", groups=("system:authenticated",))
    refused = await api.request("GET", CMS, user=nobody, Impersonate_User="root", Impersonate_Group="system:masters")
    assert (refused.status, 'cannot impersonate resource "users"' in refused.message) == (403, True)
    account = await api.request("GET", CMS, user=nobody, Impersonate_User="system:serviceaccount:a:default")
    assert 'cannot impersonate resource "serviceaccounts" in API group "" in the namespace "a"' in account.message
    without = await api.request("GET", CMS, Impersonate_Group="devs")
    assert (without.status, "Impersonate-User" in without.message) == (400, True)
