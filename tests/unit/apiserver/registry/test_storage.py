"""What the store refuses, in the API's words."""

import pytest

from apiserver.api import errors
from apiserver.registry import storage
from apiserver.store import base


@pytest.mark.parametrize(
    ("error", "expected", "code"),
    [
        (base.ValueTooLarge("etcdserver: request is too large"), errors.RequestEntityTooLarge, 413),
        (base.StoreUnavailable("no quorum"), errors.Unavailable, 503),
        (base.Compacted(7), errors.Expired, 410),
        (base.FutureRevision("9"), errors.Timeout, 504),
    ],
)
def test_store_errors_are_translated(error, expected, code):
    with pytest.raises(expected) as raised, storage.translated():
        raise error
    assert raised.value.code == code
    assert str(error) in raised.value.message
