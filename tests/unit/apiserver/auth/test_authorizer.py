"""The one authorize(): masters, nodes, RBAC out of a live watch cache over a real store."""

import orjson
import pytest

from apiserver.api import kinds
from apiserver.auth.attributes import Attributes
from apiserver.auth.authorizer import Authorizer
from apiserver.auth.user import UserInfo
from apiserver.store import codec
from apiserver.store.cache import Cache
from apiserver.store.sqlite import SqliteStore

NODE = UserInfo("system:node:n1", groups=("system:nodes", "system:authenticated"))
JANE = UserInfo("jane", groups=("system:authenticated",))
RBAC = "rbac.authorization.k8s.io/v1"


@pytest.fixture
async def world(tmp_path):
    store = await SqliteStore.open(tmp_path / "state.db")
    cache = Cache(store)
    await cache.start()

    class World:
        authorizer = Authorizer(cache)

        async def put(self, resource, namespace, name, **rest):
            obj = {"apiVersion": resource.api_version, "kind": resource.kind, "metadata": {"name": name, **({"namespace": namespace} if namespace else {})}, **rest}
            await cache.wait_for(await store.create(resource.key(namespace, name), codec.encode(orjson.loads(orjson.dumps(obj)))))

        async def drop(self, resource, namespace, name):
            _, revision = await store.delete(resource.key(namespace, name))
            await cache.wait_for(revision)

        async def may(self, user, verb, resource, namespace="", name="", *, sub="", field_node=""):
            attributes = Attributes(user, verb, resource.group, resource.plural, sub, namespace, name)
            return (await self.authorizer.authorize(attributes, field_node=field_node)).allowed

    yield World()
    await cache.stop()
    await store.close()


async def test_rules_follow_the_cache(world):
    assert not await world.may(JANE, "get", kinds.PODS, "a", "x")
    await world.put(kinds.CLUSTERROLES, "", "read", rules=[{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}])
    await world.put(kinds.ROLEBINDINGS, "a", "b", roleRef={"kind": "ClusterRole", "name": "read"}, subjects=[{"kind": "User", "name": "jane"}])
    assert await world.may(JANE, "get", kinds.PODS, "a", "x")
    assert not await world.may(JANE, "get", kinds.PODS, "b", "x")
    await world.drop(kinds.ROLEBINDINGS, "a", "b")
    assert not await world.may(JANE, "get", kinds.PODS, "a", "x")


async def test_masters_may_everything(world):
    root = UserInfo("root", groups=("system:masters",))
    assert await world.may(root, "deletecollection", kinds.SECRETS, "kube-system")


async def test_a_node_has_its_own_objects_and_no_others(world):
    for verb in ("get", "update", "patch"):
        assert await world.may(NODE, verb, kinds.NODES, name="n1", sub="status")
        assert not await world.may(NODE, verb if verb != "get" else "delete", kinds.NODES, name="n2", sub="status")
    assert await world.may(NODE, "update", kinds.LEASES, "kube-node-lease", "n1")
    assert not await world.may(NODE, "update", kinds.LEASES, "kube-node-lease", "n2")
    assert await world.may(NODE, "watch", kinds.SERVICES)
    assert not await world.may(NODE, "create", kinds.SERVICES, "a")
    assert await world.may(NODE, "create", kinds.EVENTS, "a")


async def test_a_node_sees_the_pods_bound_to_it(world):
    await world.put(kinds.PODS, "a", "mine", spec={"nodeName": "n1", "containers": []})
    await world.put(kinds.PODS, "a", "other", spec={"nodeName": "n2", "containers": []})
    assert await world.may(NODE, "list", kinds.PODS, field_node="n1")
    assert not await world.may(NODE, "list", kinds.PODS)
    assert not await world.may(NODE, "watch", kinds.PODS, field_node="n2")
    assert await world.may(NODE, "patch", kinds.PODS, "a", "mine", sub="status")
    assert not await world.may(NODE, "patch", kinds.PODS, "a", "other", sub="status")
    assert not await world.may(NODE, "patch", kinds.PODS, "a", "mine")
    assert await world.may(NODE, "delete", kinds.PODS, "a", "mine")
    assert not await world.may(NODE, "delete", kinds.PODS, "a", "other")


async def test_a_node_reads_what_its_pods_refer_to(world):
    container = {"name": "c", "image": "i", "env": [{"name": "E", "valueFrom": {"secretKeyRef": {"name": "env", "key": "k"}}}]}
    volumes = [{"name": "v", "projected": {"sources": [{"configMap": {"name": "projected"}}]}}, {"name": "s", "secret": {"secretName": "volume"}}]
    await world.put(kinds.PODS, "a", "p", spec={"nodeName": "n1", "containers": [container], "volumes": volumes, "serviceAccountName": "builder"})
    await world.put(kinds.PODS, "a", "q", spec={"nodeName": "n2", "containers": [], "imagePullSecrets": [{"name": "pull"}]})
    for name, allowed in (("env", True), ("volume", True), ("pull", False), ("unheard-of", False)):
        assert await world.may(NODE, "get", kinds.SECRETS, "a", name) is allowed
    assert await world.may(NODE, "watch", kinds.CONFIGMAPS, "a", "projected")
    assert not await world.may(NODE, "get", kinds.CONFIGMAPS, "b", "projected")
    assert not await world.may(NODE, "list", kinds.SECRETS, "a")
    assert not await world.may(NODE, "update", kinds.SECRETS, "a", "env")
    assert await world.may(NODE, "create", kinds.SERVICEACCOUNTS, "a", "builder", sub="token")
    assert not await world.may(NODE, "create", kinds.SERVICEACCOUNTS, "a", "default", sub="token")


async def test_the_name_alone_makes_no_node(world):
    pretender = UserInfo("system:node:n1", groups=("system:authenticated",))
    assert not await world.may(pretender, "get", kinds.NODES, name="n1")
