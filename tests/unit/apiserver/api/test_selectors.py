"""Label and field selectors: grammar, semantics, refusals."""

import pytest

from apiserver.api import selectors
from apiserver.api.errors import BadRequest

LABELS = {"app": "web", "tier": "front", "n": "5", "empty": "", "example.com/x": "y"}


@pytest.mark.parametrize(
    ("text", "matches"),
    [
        ("", True), (None, True), ("app=web", True), ("app==web", True), ("app=db", False), ("app!=db", True), ("missing!=x", True), ("app", True), ("!app", False),
        ("!missing", True), ("app in (web, db)", True), ("app in(db)", False), ("app notin (db)", True), ("missing notin (db)", True), ("app=web,tier=front", True),
        ("app=web,tier=back", False), ("n>4", True), ("n<5", False), ("app>1", False), ("missing>1", False), ("empty=", True), ("empty", True), ("app=", False),
        ("example.com/x=y", True), (" app = web , tier in ( front ) ", True), ("missing in (,a)", False), ("empty in (,a)", True), ("in=x", False), ("app,!missing", True),
    ],
)
def test_label_selectors(text, matches):
    assert selectors.parse_labels(text).matches(LABELS) is matches


@pytest.mark.parametrize("text", ["=", "a b", "a=b,", ",a", "a=b=c", "in (x)", "a in x", "a in (x", "a in (x y)", "a=b!", "!", "!a=b", "a>b", "a!", "-a=b", "a=-b", "/a=b", "a/b/c=d", "a=(b)"])
def test_malformed_label_selectors(text):
    with pytest.raises(BadRequest):
        selectors.parse_labels(text)


def test_label_selector_objects():
    selector = selectors.from_label_selector(
        {"matchLabels": {"app": "web"}, "matchExpressions": [{"key": "tier", "operator": "In", "values": ["front"]}, {"key": "x", "operator": "DoesNotExist"}]}
    )
    assert selector.matches(LABELS)
    assert not selector.matches({"app": "web"})
    assert selectors.from_label_selector({}).matches({})
    assert not selectors.from_label_selector(None).matches({})
    assert not selectors.from_map({}).matches(LABELS)
    assert selectors.from_map({"app": "web"}).matches(LABELS)
    for wrong in ({"key": "a", "operator": "Near"}, {"key": "a", "operator": "In"}, {"key": "a", "operator": "Exists", "values": ["x"]}):
        with pytest.raises(BadRequest):
            selectors.from_label_selector({"matchExpressions": [wrong]})


def test_exact_is_what_an_index_can_use():
    assert selectors.parse_labels("a=b,c in (d),e!=f,g in (h,i)").exact() == {"a": "b", "c": "d"}
    assert selectors.parse_fields("spec.nodeName=n,status.phase!=x").exact("spec.nodeName") == "n"
    assert selectors.parse_fields("spec.nodeName!=n").exact("spec.nodeName") is None


@pytest.mark.parametrize(
    ("text", "matches"),
    [
        ("", True), ("a.b=c", True), ("a.b==c", True), ("a.b!=c", False), ("a.b!=d,x!=y", True), ("missing=", True), ("missing!=", False), ("comma=x\\,y", True),
        ("equals=x\\=y", True), ("back=x\\\\y", True), ("a.b=c,", True),
    ],
)
def test_field_selectors(text, matches):
    fields = {"a.b": "c", "comma": "x,y", "equals": "x=y", "back": "x\\y"}
    assert selectors.parse_fields(text).matches(fields) is matches


@pytest.mark.parametrize("text", ["a", "a,b=c", "a=b=c", "a=b\\c"])
def test_malformed_field_selectors(text):
    with pytest.raises(BadRequest):
        selectors.parse_fields(text)
