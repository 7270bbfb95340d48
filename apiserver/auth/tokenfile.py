"""Static bearer tokens from a CSV file: `token,user,uid[,"group1,group2"]`. Read once at start; refuses a malformed line with its number. The authenticator looks tokens up."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path

from apiserver.auth.user import AUTHENTICATED, UserInfo


def parse(lines: Iterable[str], source: str = "token file") -> dict[str, UserInfo]:
    """token → user. Blank lines and lines that start with # are skipped. Raises ValueError naming source and line."""
    users: dict[str, UserInfo] = {}
    reader = csv.reader(lines, skipinitialspace=True)
    try:
        for row in reader:
            if not row or row[0].lstrip().startswith("#"):
                continue
            if len(row) < 3:
                raise ValueError(f'{source}, line {reader.line_num}: expected token,user,uid[,"group1,group2"], found {len(row)} columns')
            token, name, uid = (cell.strip() for cell in row[:3])
            if not token or not name:
                raise ValueError(f"{source}, line {reader.line_num}: token and user must not be empty")
            if token in users:
                raise ValueError(f"{source}, line {reader.line_num}: the token is given twice")
            groups = [group.strip() for group in ",".join(row[3:]).split(",") if group.strip()]
            users[token] = UserInfo(name, uid, (*groups, AUTHENTICATED))
    except csv.Error as err:
        raise ValueError(f"{source}, line {reader.line_num}: {err}") from err
    return users


def load(path: str) -> dict[str, UserInfo]:
    """Raises OSError, ValueError."""
    with Path(path).open(encoding="utf-8", newline="") as lines:
        return parse(lines, path)
