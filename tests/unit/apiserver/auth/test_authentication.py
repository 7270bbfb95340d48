"""Certificates, static tokens, ServiceAccount tokens, and which of them counts."""

import base64
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apiserver.api import errors
from apiserver.auth import jwt, tokenfile
from apiserver.auth.authenticator import Authenticator, is_open
from apiserver.auth.certificates import Peer, parse_subject
from apiserver.auth.serviceaccounts import Issuer
from apiserver.auth.user import UserInfo

KEY = jwt.SigningKey.generate()
NOW = 1_700_000_000.0


class Objects(dict):
    """The watch cache's get, over plain objects."""

    def add(self, key, uid, **fields):
        self[key] = SimpleNamespace(obj={"metadata": {"uid": uid}}, fields={"spec.nodeName": "", **fields})


class Clock:
    now = NOW

    def __call__(self):
        return self.now


@pytest.fixture
def world():
    objects, clock = Objects(), Clock()
    objects.add("/registry/serviceaccounts/a/builder", "sa-1")
    objects.add("/registry/pods/a/p", "pod-1", **{"spec.nodeName": "n1"})
    objects.add("/registry/minions/n1", "node-1")
    issuer = Issuer(KEY, "https://issuer", objects, now=clock, new_id=lambda: "id-1")
    return SimpleNamespace(objects=objects, clock=clock, issuer=issuer)


def test_a_token_says_who_and_what_it_is_bound_to(world):
    token, expiry = world.issuer.issue("a", "builder", "sa-1", [], 600, {"kind": "Pod", "name": "p", "uid": "pod-1"})
    assert expiry == NOW + 600
    user, audiences = world.issuer.authenticate(token)
    assert user.name == "system:serviceaccount:a:builder"
    assert user.uid == "sa-1"
    assert user.groups == ("system:serviceaccounts", "system:serviceaccounts:a", "system:authenticated")
    assert audiences == ["https://issuer"]
    assert user.extra["authentication.kubernetes.io/pod-name"] == ("p",)
    assert user.extra["authentication.kubernetes.io/node-name"] == ("n1",)


@pytest.mark.parametrize("gone", ["/registry/serviceaccounts/a/builder", "/registry/pods/a/p"])
def test_a_token_dies_with_the_account_or_the_pod(world, gone):
    token, _ = world.issuer.issue("a", "builder", "sa-1", [], 600, {"kind": "Pod", "name": "p", "uid": "pod-1"})
    world.issuer.authenticate(token)
    old = world.objects.pop(gone)
    with pytest.raises(jwt.InvalidToken, match="no longer exists"):
        world.issuer.authenticate(token)
    world.objects[gone] = SimpleNamespace(obj={"metadata": {"uid": "made anew"}}, fields=old.fields)
    with pytest.raises(jwt.InvalidToken, match="no longer exists"):
        world.issuer.authenticate(token)


def test_a_token_expires(world):
    token, _ = world.issuer.issue("a", "builder", "sa-1", [], 600)
    world.issuer.authenticate(token)
    world.clock.now = NOW + 601
    with pytest.raises(jwt.InvalidToken, match="expired"):
        world.issuer.authenticate(token)


def test_a_token_is_good_for_its_audiences_only(world):
    token, _ = world.issuer.issue("a", "builder", "sa-1", ["vault"], 600)
    assert world.issuer.authenticate(token, ["vault", "x"])[1] == ["vault"]
    with pytest.raises(jwt.InvalidToken, match="audiences"):
        world.issuer.authenticate(token)


def test_a_token_of_another_key_or_algorithm_is_refused(world):
    other = Issuer(jwt.SigningKey.generate(), "https://issuer", world.objects, now=world.clock, new_id=lambda: "x")
    with pytest.raises(jwt.InvalidToken, match="wrong signature"):
        world.issuer.authenticate(other.issue("a", "builder", "sa-1", [], 600)[0])
    token, _ = world.issuer.issue("a", "builder", "sa-1", [], 600)
    header, payload, signature = token.split(".")
    for algorithm in ('{"alg":"none"}', '{"alg":"HS256"}'):
        forged = base64.urlsafe_b64encode(algorithm.encode()).rstrip(b"=").decode()
        with pytest.raises(jwt.InvalidToken, match="ES256"):
            world.issuer.authenticate(f"{forged}.{payload}.{signature}")
    with pytest.raises(jwt.InvalidToken):
        world.issuer.authenticate(f"{header}.{payload}x.{signature}")


@given(st.text(max_size=200) | st.from_regex(r"[\w-]*\.[\w-]*\.[\w-]*", fullmatch=True))
def test_nonsense_is_an_invalid_token_and_nothing_else(text):
    with pytest.raises(jwt.InvalidToken):
        KEY.verify(text)


def test_token_file():
    users = tokenfile.parse(['secret,jane,7,"dev,ops"', "# a comment", "", "other,joe,8"])
    assert users["secret"] == UserInfo("jane", "7", ("dev", "ops", "system:authenticated"))
    assert users["other"].groups == ("system:authenticated",)


@pytest.mark.parametrize(("lines", "why"), [(["a,b"], "line 1: expected token"), (["a,b,c", ",x,y"], "line 2: token and user"), (["a,b,c", "a,d,e"], "line 2: the token is given twice")])
def test_a_faulty_token_file_is_refused_with_its_line(lines, why):
    with pytest.raises(ValueError, match=why):
        tokenfile.parse(lines, "tokens.csv")


CERTIFICATE = {"subject": ((("organizationName", "system:masters"),), (("organizationName", "dev"),), (("commonName", "admin"),)), "notAfter": "Jan  1 00:00:00 2030 GMT"}


def test_certificate_subject():
    assert parse_subject(CERTIFICATE) == UserInfo("admin", groups=("system:masters", "dev", "system:authenticated"))
    assert parse_subject({"subject": ((("organizationName", "dev"),),)}) is None


@pytest.fixture
def authenticator(world):
    return Authenticator({"secret": UserInfo("jane")}, world.issuer, world.clock)


def bearer(token):
    return [(b"authorization", f"Bearer {token}".encode())]


def test_who_is_asking(world, authenticator):
    token, _ = world.issuer.issue("a", "builder", "sa-1", [], 600)
    encoded = base64.urlsafe_b64encode(b"secret").rstrip(b"=").decode()
    websocket = [(b"sec-websocket-protocol", f"base64url.bearer.authorization.k8s.io.{encoded}, v4.channel.k8s.io".encode())]
    assert authenticator.authenticate("/api", bearer("secret"), None).name == "jane"
    assert authenticator.authenticate("/api", bearer(token), None).name == "system:serviceaccount:a:builder"
    assert authenticator.authenticate("/api", websocket, None).name == "jane"
    assert authenticator.authenticate("/api", [], Peer(CERTIFICATE)).name == "admin"
    assert authenticator.authenticate("/api", bearer("secret"), Peer(CERTIFICATE)).name == "jane"
    assert authenticator.authenticate("/version", [], None).name == "system:anonymous"


@pytest.mark.parametrize(
    ("path", "headers", "peer"),
    [
        ("/api", [], None), ("/api", [], Peer({})), ("/api", bearer("wrong"), Peer(CERTIFICATE)), ("/version", bearer("wrong"), None), ("/healthzz", [], None),
        ("/api", [(b"authorization", b"Basic amFuZTo=")], None), ("/api", [(b"authorization", b"Bearer ")], None),
        ("/api", [(b"sec-websocket-protocol", b"base64url.bearer.authorization.k8s.io.***")], None),
    ],
)  # fmt: skip
def test_everything_else_is_unauthorized(authenticator, path, headers, peer):
    with pytest.raises(errors.Unauthorized):
        authenticator.authenticate(path, headers, peer)


def test_an_expired_certificate_ends_the_identity(world, authenticator):
    world.clock.now = 2_000_000_000.0
    with pytest.raises(errors.Unauthorized):
        authenticator.authenticate("/api", [], Peer(CERTIFICATE))


def test_open_paths():
    assert all(is_open(path) for path in ("/healthz", "/livez", "/readyz", "/version", "/version/", "/readyz/store"))
    assert not any(is_open(path) for path in ("/", "/api", "/healthzx", "/versions", "/metrics", "/openapi/v2"))
