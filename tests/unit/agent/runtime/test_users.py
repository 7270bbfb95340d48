import os

import pytest

from agent.runtime import users

PASSWD = [line.split(":") for line in ("root:x:0:0:root:/root:/bin/sh", "web:x:1000:1001::/home/web:", "77:x:500:501::/seven:", "short:x", "bad:x:y:z::/:")]
GROUP = [line.split(":") for line in ("root:x:0:", "web:x:1001:", "extra:x:2000:web,x", "77:x:900:", "odd:x:q:web")]


@pytest.mark.parametrize(
    ("user", "expected"),
    [
        ({}, (0, 0, [0], "/root")),
        ({"username": ""}, (0, 0, [0], "/root")),
        ({"username": "web"}, (1000, 1001, [1001, 2000], "/home/web")),
        ({"username": "web", "additionalGids": [9]}, (1000, 1001, [9, 1001, 2000], "/home/web")),
        ({"username": "1000"}, (1000, 1001, [1001, 2000], "/home/web")),
        ({"username": "77"}, (500, 501, [501], "/seven")),
        ({"username": "4000"}, (4000, 0, [0], "/")),
        ({"username": "web:extra"}, (1000, 2000, [2000], "/home/web")),
        ({"username": "web:5"}, (1000, 5, [5], "/home/web")),
        ({"uid": 1000}, (1000, 1001, [1001, 2000], "/home/web")),
        ({"uid": 1000, "gid": 3}, (1000, 3, [3], "/home/web")),
        ({"uid": 0, "username": "web:extra"}, (0, 0, [0], "/root")),
    ],
)
def test_resolve(user, expected):
    assert tuple(users.resolve(user, PASSWD, GROUP)) == expected


@pytest.mark.parametrize(("name", "text"), [("ghost", "unable to find user ghost: no matching entries in passwd file"), ("web:ghosts", "unable to find group ghosts: no matching entries in group file")])
def test_unknown_names(name, text):
    with pytest.raises(OSError) as e:
        users.resolve({"username": name}, PASSWD, GROUP)
    assert e.value.strerror == text


def test_databases_that_are_no_files_are_empty(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "ok").write_text("# comment\n\na:b\n")
    assert users.read_database(str(tmp_path / "fifo")) == users.read_database(str(tmp_path / "none")) == users.read_database(str(tmp_path)) == []
    assert users.read_database(str(tmp_path / "ok")) == [["a", "b"]]
