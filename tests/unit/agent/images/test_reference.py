import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.images import reference
from agent.images.model import InvalidReference

A = "sha256:" + "a" * 64


@pytest.mark.parametrize(
    ("text", "full"),
    [
        ("busybox", "docker.io/library/busybox:latest"),
        ("busybox:1.36", "docker.io/library/busybox:1.36"),
        ("me/app", "docker.io/me/app:latest"),
        ("docker.io/busybox", "docker.io/library/busybox:latest"),
        ("index.docker.io/me/app:x", "docker.io/me/app:x"),
        ("localhost/busybox:1", "localhost/busybox:1"),
        ("localhost:5000/a", "localhost:5000/a:latest"),
        ("registry.example/a/b/c:v1_2.3-x", "registry.example/a/b/c:v1_2.3-x"),
        ("[::1]:5000/a:b", "[::1]:5000/a:b"),
        (f"busybox@{A}", f"docker.io/library/busybox@{A}"),
        (f"registry.example/a:1@{A}", f"registry.example/a:1@{A}"),
        ("a__b/c-d.e", "docker.io/a__b/c-d.e:latest"),
    ],
)
def test_normalises_as_docker_does(text: str, full: str) -> None:
    parsed = reference.parse(text)
    assert str(parsed) == full
    assert str(reference.parse(str(parsed))) == full


@pytest.mark.parametrize("text", ["", ":", "a:", "a:b:c/", "/a", "a//b", "a b", "a@sha256:12", "a@md5:" + "a" * 32, "-a", "a/.b", "a:-x", "a:" + "t" * 129, "x" * 300, "localhost/"])
def test_refuses_what_is_no_reference(text: str) -> None:
    with pytest.raises(InvalidReference, match="couldn't parse image name"):
        reference.parse(text)


def test_names_the_capital() -> None:
    with pytest.raises(InvalidReference, match=r"repository name \(library/BusyBox\) must be lowercase"):
        reference.parse("docker.io/BusyBox")


@given(st.text(max_size=80))
def test_any_text_is_parsed_to_a_fixed_point_or_refused(text: str) -> None:
    try:
        parsed = reference.parse(text)
    except InvalidReference:
        return
    assert reference.parse(str(parsed)).name == parsed.name
    assert str(reference.parse(str(parsed))) == str(parsed)
