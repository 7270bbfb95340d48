"""Manifests: documents with their lines, the errors' texts, what is refused. (test_kubectl compares the reading of scalars with kubectl's.)"""

import pytest

from apiserver.api import manifests
from apiserver.api.manifests import ManifestError


def load(text):
    return [(document.obj, document.line) for document in manifests.load(text, "f.yaml")]


def test_documents_and_lines():
    assert load("---\n# nothing\n---\na: 1\n---\nb: 2\n...\n---\n") == [({"a": 1}, 4), ({"b": 2}, 6)]
    assert load("") == []
    assert load("# only a comment\n") == []
    assert load("\ufeffa: 1\n") == [({"a": 1}, 1)]


def test_json():
    assert load('\n{"a": 1,\n\t"b": [true]}\n{"c": null}') == [({"a": 1, "b": [True]}, 2), ({"c": None}, 4)]
    assert load("{a: b}") == [({"a": "b"}, 1)]


def test_merge_keys_and_aliases():
    text = "base: &b {x: 1, w: 2}\none: {<<: *b, w: 3}\ntwo:\n  z: 4\n  <<: [*b, {q: 5, x: 9}]\n"
    assert load(text)[0][0] == {"base": {"x": 1, "w": 2}, "one": {"x": 1, "w": 3}, "two": {"x": 1, "w": 2, "q": 5, "z": 4}}


def test_strings_stay_strings():
    assert load('a: "yes"\nb: \'0644\'\nc: |\n  1\nd: 12:30:45\ne: !!str 5\n')[0][0] == {"a": "yes", "b": "0644", "c": "1\n", "d": "12:30:45", "e": "5"}


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("a: 1\nb: [1\n", "error parsing f.yaml: error converting YAML to JSON: yaml: line 3: did not find expected ',' or ']'"),
        ("a: b: c\n", "error parsing f.yaml: error converting YAML to JSON: yaml: line 1: mapping values are not allowed in this context"),
        ("a: 1\n---\nb:\n\tc: 1\n", "error parsing f.yaml: error converting YAML to JSON: yaml: line 4: found character that cannot start any token"),
        ("a: 1\nb: 2\na: 3\n", 'error parsing f.yaml: error converting YAML to JSON: yaml: line 3: key "a" already set in map'),
        ("1: a\n'1': b\n", 'error parsing f.yaml: error converting YAML to JSON: yaml: line 2: key "1" already set in map'),
        ("a: &x [*x]\n", "error parsing f.yaml: error converting YAML to JSON: yaml: line 1: anchor value contains itself"),
        ("a: *nope\n", "error parsing f.yaml: error converting YAML to JSON: yaml: line 1: found undefined alias"),
        ("a: .inf\n", "error parsing f.yaml: error converting YAML to JSON: yaml: line 1: unsupported value: +Inf"),
        ("{? [a] : b}\n", "error parsing f.yaml: error converting YAML to JSON: yaml: line 1: unsupported map key of type sequence"),
        ("a: 1\nb: \x01\n", "error parsing f.yaml: error converting YAML to JSON: yaml: line 2: control characters are not allowed"),
        ("- a\n", "error parsing f.yaml: line 1: expected an object with apiVersion and kind, found a list"),
        ("\nhello\n", "error parsing f.yaml: line 2: expected an object with apiVersion and kind, found a string"),
        ('{"a":1,\n"a":2}', 'error parsing f.yaml: line 1: key "a" already set in map'),
        ("a: !!bool maybe\n", "error parsing f.yaml: error converting YAML to JSON: yaml: line 1: cannot decode !!str `maybe` as a !!bool"),
        ("a: !!binary '?'\n", "error parsing f.yaml: error converting YAML to JSON: yaml: line 1: !!binary value contains invalid base64 data"),
    ],
)
def test_errors_name_file_and_line(text, error):
    with pytest.raises(ManifestError) as caught:
        load(text)
    assert str(caught.value) == error


def test_an_alias_bomb_is_refused():
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    with pytest.raises(ManifestError, match="excessive aliasing"):
        load("\n".join(lines))


def test_deep_nesting_is_refused_or_read_but_never_fatal():
    try:
        load("a: " + "[" * 3000 + "]" * 3000)
    except ManifestError as err:
        assert "max depth" in str(err)
