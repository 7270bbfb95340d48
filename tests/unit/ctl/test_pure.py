"""The client's pure parts. The commands themselves run against real servers in tests/e2e."""

import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apiserver.api import errors, kinds
from apiserver.client.requests import ServerUnreachable
from ctl import __main__ as main
from ctl import apply, delete, exec, get, render, session, websocket


class NoDiscovery:
    def request(self, *_args, **_kwargs):
        class Answer:
            def json(self):
                return {"items": []}

        return Answer()


@pytest.fixture
def here():
    return session.Session(NoDiscovery(), "default", False)


@given(st.lists(st.tuples(st.sampled_from([websocket.TEXT, websocket.BINARY, websocket.PING]), st.binary(max_size=70000)), max_size=4), st.integers(1, 5000))
def test_frames_survive_any_cut(messages, step):
    raw = b"".join(websocket.encode(o, p, os.urandom(4)) for o, p in messages)
    plain = b"".join(bytes([0x80 | o]) + _length(p) + p for o, p in messages)
    decoder, got = websocket.Decoder(), []
    for i in range(0, len(plain), step):
        got += decoder.feed(plain[i : i + step])
    assert got == messages
    assert len(raw) == len(plain) + 4 * len(messages)


def _length(p):
    n = len(p)
    return bytes([n]) if n < 126 else b"\x7e" + n.to_bytes(2, "big") if n < 65536 else b"\x7f" + n.to_bytes(8, "big")


def test_masking_is_rfc_6455s_example():
    assert websocket.encode(websocket.TEXT, b"Hello", bytes.fromhex("37fa213d")) == bytes.fromhex("818537fa213d7f9f4d5158")


def test_fragments_are_joined_and_control_frames_may_stand_between():
    d = websocket.Decoder()
    assert d.feed(b"\x02\x01a\x89\x00\x80\x01b") == [(websocket.PING, b""), (websocket.BINARY, b"ab")]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["pods"], [("pods", "")]),
        (["po", "a", "b"], [("pods", "a"), ("pods", "b")]),
        (["po,svc"], [("pods", ""), ("services", "")]),
        (["pod/a", "svc/b"], [("pods", "a"), ("services", "b")]),
        (["deploy.apps"], [("deployments", "")]),
    ],
)
def test_targets(here, words, expected):
    assert [(t.resource.plural, t.name) for t in get.parse_targets(here, words)] == expected


@pytest.mark.parametrize("words", [[], ["nonsense"], ["pod/a", "b"], ["po,svc", "a"], ["pod/"]])
def test_targets_that_cannot_be(here, words):
    with pytest.raises(session.CommandError):
        get.parse_targets(here, words)


def test_all_is_the_category(here):
    assert {"pods", "services", "deployments"} <= {t.resource.plural for t in get.parse_targets(here, ["all"])}


def test_last_applied_is_what_kubectl_writes():
    obj = {"kind": "Pod", "apiVersion": "v1", "metadata": {"name": "x", "namespace": "default", "annotations": {apply.LAST_APPLIED: "old", "a": "ü"}}, "spec": {}}
    text = apply.last_applied(obj)
    assert text == '{"apiVersion":"v1","kind":"Pod","metadata":{"annotations":{"a":"ü"},"name":"x","namespace":"default"},"spec":{}}\n'
    again = apply.with_last_applied(apply.with_last_applied(obj))
    assert again["metadata"]["annotations"][apply.LAST_APPLIED] == text


def test_a_removed_field_is_removed_and_what_the_server_added_stays():
    before = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c", "namespace": "default"}, "data": {"a": "1", "b": "2"}}
    live = apply.with_last_applied(before)
    live = {**live, "metadata": {**live["metadata"], "uid": "u", "labels": {"by": "another"}}}
    after = {**before, "data": {"a": "1"}}
    kind, patch = apply.plan_patch(kinds.CONFIGMAPS, apply.with_last_applied(after), live)
    assert kind == "strategic"
    assert patch["data"] == {"b": None}
    assert set(patch) <= {"data", "metadata"} and "labels" not in patch["metadata"]
    assert apply.plan_patch(kinds.CONFIGMAPS, apply.with_last_applied(before), live) == ("strategic", {})


@pytest.mark.parametrize(("text", "expected"), [("5", 5), ("1m30s", 90), ("500ms", 0.5), ("2h", 7200)])
def test_durations(text, expected):
    assert delete.seconds(text, "--timeout") == expected


@pytest.mark.parametrize("text", ["", "x", "5 s", "s5", "-1s"])
def test_durations_that_are_none(text):
    with pytest.raises(session.CommandError, match="--timeout"):
        delete.seconds(text, "--timeout")


def test_delete_options():
    def options(*words):
        p = main.Parser(prog="x")
        delete.configure(p)
        return delete.options(p.parse_intermixed_args([*words, "pod", "x"]))

    assert options() == {"propagationPolicy": "Background"}
    assert options("--grace-period=0")["gracePeriodSeconds"] == 1
    assert options("--grace-period=0", "--force")["gracePeriodSeconds"] == 0
    assert options("--force")["gracePeriodSeconds"] == 0
    assert options("--now")["gracePeriodSeconds"] == 1
    assert options("--cascade=orphan")["propagationPolicy"] == "Orphan"
    with pytest.raises(session.CommandError):
        options("--now", "--grace-period=5")


def test_columns_stay_aligned_while_rows_come():
    c = render.Columns()
    assert c.render([["NAME", "READY"], ["a", "1/1"]]) == "NAME   READY\na      1/1\n"
    assert c.render([["b", "0/1"]]) == "b      0/1\n"


def test_wide_columns_and_namespaces():
    table = {
        "columnDefinitions": [{"name": "Name", "priority": 0}, {"name": "IP", "priority": 1}],
        "rows": [{"cells": ["x", None], "object": {"metadata": {"namespace": "ns", "labels": {"b": "2", "a": "1"}}}}],
    }
    assert render.table_rows(table, wide=False, headers=True, namespace=True, labels=True) == [["NAMESPACE", "NAME", "LABELS"], ["ns", "x", "a=1,b=2"]]
    assert render.table_rows(table, wide=True, headers=False, namespace=False, prefix="pod/") == [["pod/x", "<none>"]]


def test_yaml_prints_blocks_and_quotes_what_is_not_text():
    assert render.to_yaml({"b": "true", "a": "x\ny\n", "c": ["1"]}) == "a: |\n  x\n  y\nb: 'true'\nc:\n- '1'\n"


def test_error_texts():
    assert session.describe_error(errors.NotFound(kinds.PODS, "x")) == 'Error from server (NotFound): pods "x" not found'
    refused = ServerUnreachable("https://127.0.0.1:6443", "connection refused")
    assert session.describe_error(refused) == "The connection to the server 127.0.0.1:6443 was refused - did you specify the right host or port?"
    assert session.describe_error(session.CommandError("no")) == "error: no"


def test_exit_codes():
    assert exec.exit_code({"status": "Success"}) == 0
    failure = {"status": "Failure", "reason": "NonZeroExitCode", "details": {"causes": [{"reason": "ExitCode", "message": "3"}]}}
    assert exec.exit_code(json.loads(json.dumps(failure))) == 3
    for status in (None, {"status": "Failure", "message": "no such container"}):
        with pytest.raises(session.CommandError):
            exec.exit_code(status)


@pytest.mark.parametrize("argv", [["get", "--nope"], ["nope"], ["get", "-o"]])
def test_wrong_words_are_one_line_and_status_1(argv, capsys):
    with pytest.raises(SystemExit) as e:
        main.parse(argv)
    assert e.value.code == 1
    assert capsys.readouterr().err.startswith("error: ")


def test_flags_may_stand_anywhere_and_everything_behind_two_dashes_is_the_command():
    args = main.parse(["-n", "ns", "exec", "-i", "pod", "--", "sh", "-c", "x", "--", "-n"])
    assert (args.namespace, args.what, args.stdin, args.rest) == ("ns", ["pod"], True, ["sh", "-c", "x", "--", "-n"])
    assert main.parse(["get", "pods", "-o", "wide", "x"]).what == ["pods", "x"]
