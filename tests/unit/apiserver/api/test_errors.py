"""Errors: Kubernetes' texts, and the same class again on the other side of the wire."""

import pytest

from apiserver.api import errors, kinds
from apiserver.api.errors import Cause

ALL = [
    errors.BadRequest("no"), errors.Unauthorized(), errors.Forbidden.to(kinds.PODS, "x", "because"), errors.NotFound(kinds.DEPLOYMENTS, "x"), errors.NotFound(),
    errors.MethodNotAllowed(), errors.NotAcceptable(), errors.AlreadyExists(kinds.PODS, "x"), errors.Conflict(kinds.PODS, "x"), errors.Gone("gone"), errors.Expired(),
    errors.RequestEntityTooLarge(), errors.UnsupportedMediaType(), errors.Invalid("apps", "Deployment", "x", [Cause("spec.replicas", "FieldValueInvalid", "Invalid value: -1: no")]),
    errors.TooManyRequests("slow", 7), errors.InternalError("x"), errors.Unavailable(), errors.Timeout(),
]


@pytest.mark.parametrize("error", ALL, ids=lambda error: type(error).__name__)
def test_an_error_survives_the_wire(error):
    status = errors.to_status(error)
    back = errors.from_status(status)
    assert type(back) is type(error)
    assert errors.to_status(back) == status
    assert (status["kind"], status["status"], status["code"]) == ("Status", "Failure", error.code)


def test_texts_are_those_of_kubernetes():
    assert errors.NotFound(kinds.PODS, "x").message == 'pods "x" not found'
    assert errors.NotFound(kinds.DEPLOYMENTS, "x").message == 'deployments.apps "x" not found'
    assert errors.NotFound().message == "the server could not find the requested resource"
    assert errors.AlreadyExists(kinds.NAMESPACES, "x").message == 'namespaces "x" already exists'
    assert errors.Conflict(kinds.PODS, "x").message == (
        'Operation cannot be fulfilled on pods "x": the object has been modified; please apply your changes to the latest version and try again'
    )
    assert errors.Forbidden.to("pods", "x", "no").message == 'pods "x" is forbidden: no'


def test_invalid_names_every_cause_once():
    causes = [Cause("a", "FieldValueRequired", "Required value"), Cause("b", "FieldValueInvalid", "Invalid value: 1: no"), Cause("a", "FieldValueRequired", "Required value")]
    error = errors.Invalid("", "Pod", "x", causes)
    assert error.message == 'Pod "x" is invalid: [a: Required value, b: Invalid value: 1: no]'
    assert error.details["causes"] == [
        {"reason": "FieldValueRequired", "message": "Required value", "field": "a"}, {"reason": "FieldValueInvalid", "message": "Invalid value: 1: no", "field": "b"},
    ]
    assert errors.Invalid("apps", "Deployment", "x", causes[:1]).message == 'Deployment.apps "x" is invalid: a: Required value'


def test_a_status_of_an_unknown_reason_keeps_its_code():
    error = errors.from_status({"kind": "Status", "code": 418, "reason": "Teapot", "message": "short and stout"})
    assert (error.code, error.reason, error.message) == (418, "Teapot", "short and stout")
    assert type(errors.from_status({"code": 404})) is errors.NotFound
