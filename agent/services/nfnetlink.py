"""Raw nfnetlink for nf_tables (kernel include/uapi/linux/netfilter/nf_tables.h): batches of set elements and of the few rules made on demand, committed atomically in under
a millisecond. Knows the messages, not what a Service is. Called by `proxy`."""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterable, Sequence

NETLINK_NETFILTER = 12
NLM_F_REQUEST, NLM_F_ACK, NLM_F_DUMP, NLM_F_CREATE, NLM_F_APPEND = 1, 4, 0x300, 0x400, 0x800
NLMSG_ERROR, NLMSG_DONE = 2, 3
BATCH_BEGIN, BATCH_END, SUBSYSTEM = 0x10, 0x11, 10
NEWCHAIN, GETCHAIN, DELCHAIN, NEWRULE, GETRULE, DELRULE, NEWSETELEM, DELSETELEM = 3, 4, 5, 6, 7, 8, 12, 14
DELTABLE = 2
NESTED = 0x8000
_MAX_LIST = 60_000  # a netlink attribute's length has 16 bits
GOTO = -4  # NFT_GOTO

R0 = 8  # NFT_REG32_00: registers of 4 bytes from here on
META_L4PROTO, NETWORK, TRANSPORT = 16, 1, 2
DYNSET_UPDATE, DYNSET_DELETE = 1, 2


def attribute(kind: int, payload: bytes) -> bytes:
    length = len(payload) + 4
    return struct.pack("=HH", length, kind) + payload + bytes(-length % 4)


def nested(kind: int, payload: bytes) -> bytes:
    return attribute(kind | NESTED, payload)


def text(kind: int, value: str) -> bytes:
    return attribute(kind, value.encode() + b"\0")


def be32(kind: int, value: int) -> bytes:
    return attribute(kind, struct.pack(">I", value & 0xFFFFFFFF))


# -- expressions of a rule ------------------------------------------------------------------------------------------------------------------------------------------


def _expression(name: str, data: bytes) -> bytes:
    return nested(1, text(1, name) + nested(2, data))


def load_payload(register: int, base: int, offset: int, length: int) -> bytes:
    return _expression("payload", be32(1, register) + be32(2, base) + be32(3, offset) + be32(4, length))


def load_meta(register: int, key: int) -> bytes:
    return _expression("meta", be32(2, key) + be32(1, register))


def load_value(register: int, value: bytes) -> bytes:
    return _expression("immediate", be32(1, register) + nested(2, attribute(1, value)))


def load_random(register: int, modulus: int) -> bytes:
    return _expression("numgen", be32(1, register) + be32(2, modulus) + be32(3, 1) + be32(4, 0))


def lookup(name: str, source: int, destination: int = 0) -> bytes:
    """In a set (no destination) or a map; the rule ends where nothing is found."""
    return _expression("lookup", text(1, name) + be32(2, source) + (be32(3, destination) if destination else b""))


def dynset(operation: int, name: str, key: int, data: int = 0, timeout_s: int = 0) -> bytes:
    fields = text(1, name) + be32(3, operation) + be32(4, key) + (be32(5, data) if data else b"")
    return _expression("dynset", fields + (attribute(6, struct.pack(">Q", timeout_s * 1000)) if timeout_s else b""))


def dnat(address: int, port: int) -> bytes:
    return _expression("nat", be32(1, 1) + be32(2, socket.AF_INET) + be32(3, address) + be32(5, port))


# -- elements --------------------------------------------------------------------------------------------------------------------------------------------------------

_PROTOCOLS = {"tcp": 6, "udp": 17}


def encode_field(kind: str, value: str | int) -> bytes:
    """Each field of a concatenation fills 4 bytes. numgen's numbers are in the host's byte order, all else is as on the wire."""
    if kind == "ip":
        return socket.inet_aton(str(value))
    if kind == "proto":
        return bytes((_PROTOCOLS[str(value)], 0, 0, 0))
    if kind == "port":
        return struct.pack(">HH", int(value), 0)
    return struct.pack("=I", int(value))


def encode_key(fields: Sequence[str], values: Sequence[str | int]) -> bytes:
    return b"".join(map(encode_field, fields, values))


def element(key: bytes, *, value: bytes = b"", chain: str = "") -> bytes:
    """A set's element, or a map's with a value or a `goto chain`."""
    data = nested(1, attribute(1, key))
    if chain:
        data += nested(2, nested(2, be32(1, GOTO) + text(2, chain)))
    elif value:
        data += nested(2, attribute(1, value))
    return nested(1, data)


class BatchError(OSError):
    """The kernel refused a batch, and nothing of it happened. `what` names the first message refused."""


class Batch:
    """Messages that happen together or not at all."""

    def __init__(self, table: str) -> None:
        self._table = text(1, table)
        self._messages: list[tuple[int, int, bytes, str]] = []

    def __len__(self) -> int:
        return len(self._messages)

    def _add(self, kind: int, flags: int, body: bytes, what: str) -> None:
        self._messages.append((kind, flags, body, what))

    def put_elements(self, name: str, elements: Iterable[bytes]) -> None:
        self._elements(NEWSETELEM, NLM_F_CREATE, name, elements, f"add elements to {name}")

    def delete_elements(self, name: str, elements: Iterable[bytes]) -> None:
        self._elements(DELSETELEM, 0, name, elements, f"delete elements of {name}")

    def _elements(self, kind: int, flags: int, name: str, elements: Iterable[bytes], what: str) -> None:
        part: list[bytes] = []
        size = 0
        for each in elements:
            if size + len(each) > _MAX_LIST:
                self._add(kind, flags, self._table + text(2, name) + nested(3, b"".join(part)), what)
                part, size = [], 0
            part.append(each)
            size += len(each)
        if part:
            self._add(kind, flags, self._table + text(2, name) + nested(3, b"".join(part)), what)

    def flush_elements(self, name: str) -> None:
        self._add(DELSETELEM, 0, self._table + text(2, name), f"flush {name}")

    def put_chain(self, name: str, rules: Iterable[Sequence[bytes]]) -> None:
        """A chain with exactly these rules, whatever it had."""
        self._add(NEWCHAIN, NLM_F_CREATE, self._table + text(3, name), f"create chain {name}")
        self._add(DELRULE, 0, self._table + text(2, name), f"flush chain {name}")
        for rule in rules:
            self._add(NEWRULE, NLM_F_CREATE | NLM_F_APPEND, self._table + text(2, name) + nested(4, b"".join(rule)), f"add a rule to chain {name}")

    def delete_chain(self, name: str) -> None:
        self._add(DELCHAIN, 0, self._table + text(3, name), f"delete chain {name}")

    def delete_table(self) -> None:
        self._add(DELTABLE, 0, self._table, "delete the table")

    def encode(self, sequence: int) -> bytes:
        parts = [_batch_mark(BATCH_BEGIN, sequence)]
        last = len(self._messages) - 1
        for index, (kind, flags, body, _) in enumerate(self._messages):
            flags |= NLM_F_REQUEST | (NLM_F_ACK if index == last else 0)
            parts.append(_message(SUBSYSTEM << 8 | kind, flags, sequence + 1 + index, body))
        parts.append(_batch_mark(BATCH_END, sequence + 1 + len(self._messages)))
        return b"".join(parts)

    def what(self, index: int) -> str:
        return self._messages[index][3]


def _message(kind: int, flags: int, sequence: int, body: bytes) -> bytes:
    """Everything here is about IPv4; after nlmsghdr comes nfgenmsg."""
    return struct.pack("=IHHIIBBH", 20 + len(body), kind, flags, sequence, 0, socket.AF_INET, 0, 0) + body


def _batch_mark(kind: int, sequence: int) -> bytes:
    return struct.pack("=IHHIIBB", 20, kind, NLM_F_REQUEST, sequence, 0, socket.AF_UNSPEC, 0) + struct.pack(">H", SUBSYSTEM)


class NetfilterSocket:
    """A socket of the network namespace that the calling thread is in. Blocking: the kernel commits before sendmsg returns."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_NETFILTER)
        self._socket.bind((0, 0))
        self._socket.setsockopt(socket.SOL_SOCKET, 33, 4 << 20)  # SO_RCVBUFFORCE: one error for every message of a batch that goes wrong
        self._sequence = 0

    def close(self) -> None:
        self._socket.close()

    def commit(self, batch: Batch) -> None:
        """All of it or nothing. Raises BatchError."""
        if not batch:
            return
        first = self._sequence + 1
        data = batch.encode(first)
        self._sequence += len(batch) + 2
        if len(data) > 1 << 17:
            self._socket.setsockopt(socket.SOL_SOCKET, 32, 2 * len(data))  # SO_SNDBUFFORCE
        self._socket.send(data)
        failure: BatchError | None = None
        done = False
        while not done:
            for kind, sequence, body in self._receive():
                if kind != NLMSG_ERROR or not first <= sequence <= self._sequence:
                    continue
                code = -struct.unpack_from("=i", body)[0]
                done = True
                if code and failure is None:
                    index = min(max(sequence - first - 1, 0), len(batch) - 1)
                    failure = BatchError(code, f"cannot {batch.what(index)}: {os.strerror(code)}")
        self._drain()
        if failure:
            raise failure

    def _drain(self) -> None:
        while True:
            try:
                self._socket.recv(1 << 16, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno != errno.ENOBUFS:  # errors that did not fit; the first one is known
                    raise

    def chains(self, table: str) -> set[str]:
        """Names of a table's chains; empty where there is no such table."""
        names = set()
        for body in self.dump(SUBSYSTEM << 8 | GETCHAIN, text(1, table)):
            attributes = parse_attributes(body)
            if attributes.get(1, b"").rstrip(b"\0").decode() == table:
                names.add(attributes[3].rstrip(b"\0").decode())
        return names

    def rule_counts(self, table: str) -> dict[str, int]:
        """How many rules each of a table's chains has; chains without rules are not in it."""
        counts: dict[str, int] = {}
        for body in self.dump(SUBSYSTEM << 8 | GETRULE, text(1, table)):
            attributes = parse_attributes(body)
            if attributes.get(1, b"").rstrip(b"\0").decode() == table:
                chain = attributes[2].rstrip(b"\0").decode()
                counts[chain] = counts.get(chain, 0) + 1
        return counts

    def dump(self, kind: int, body: bytes = b"") -> Iterable[bytes]:
        """Bodies after the nfgenmsg header. Raises OSError."""
        self._sequence += 1
        self._socket.send(_message(kind, NLM_F_REQUEST | NLM_F_DUMP, self._sequence, body))
        while True:
            for found, sequence, payload in self._receive():
                if sequence != self._sequence:
                    continue
                if found == NLMSG_DONE:
                    return
                if found == NLMSG_ERROR:
                    code = -struct.unpack_from("=i", payload)[0]
                    raise OSError(code, f"cannot dump netfilter state: {os.strerror(code)}")
                yield payload[4:]

    def request(self, kind: int, body: bytes) -> int:
        """One acknowledged message; returns its errno, 0 for success."""
        self._sequence += 1
        self._socket.send(_message(kind, NLM_F_REQUEST | NLM_F_ACK, self._sequence, body))
        while True:
            for found, sequence, payload in self._receive():
                if found == NLMSG_ERROR and sequence == self._sequence:
                    return int(-struct.unpack_from("=i", payload)[0])

    def _receive(self) -> list[tuple[int, int, bytes]]:
        data = self._socket.recv(1 << 18)
        messages = []
        offset = 0
        while len(data) - offset >= 16:
            length, kind, _, sequence, _ = struct.unpack_from("=IHHII", data, offset)
            messages.append((kind, sequence, data[offset + 16 : offset + length]))
            offset += (length + 3) & ~3
        return messages


def parse_attributes(data: bytes) -> dict[int, bytes]:
    found = {}
    offset = 0
    while len(data) - offset >= 4:
        length, kind = struct.unpack_from("=HH", data, offset)
        if length < 4:
            break
        found[kind & 0x3FFF] = data[offset + 4 : offset + length]
        offset += (length + 3) & ~3
    return found
