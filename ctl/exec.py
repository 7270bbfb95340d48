"""`minikctl exec`: a command in a running container over the v5.channel.k8s.io WebSocket protocol (channel 0 stdin, 1 stdout, 2 stderr, 3 error Status, 4 resize,
255 close of a channel)."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import select
import signal
import socket
import sys
from collections.abc import Iterator

from apiserver.api import kinds
from ctl import logs, websocket
from ctl.session import CommandError, Session

STDIN, STDOUT, STDERR, ERROR, RESIZE, CLOSE = 0, 1, 2, 3, 4, 255
PROTOCOLS = "v5.channel.k8s.io"


def configure(p: argparse.ArgumentParser) -> None:
    p.add_argument("what", nargs="*", metavar="POD -- COMMAND [ARG …]")
    p.add_argument("-c", "--container", default="")
    p.add_argument("-i", "--stdin", action="store_true")
    p.add_argument("-t", "--tty", action="store_true")
    p.add_argument("-q", "--quiet", action="store_true")


@contextlib.contextmanager
def raw_terminal(on: bool) -> Iterator[None]:
    if not on:
        yield
        return
    import termios
    import tty

    saved = termios.tcgetattr(0)
    tty.setraw(0)
    try:
        yield
    finally:
        termios.tcsetattr(0, termios.TCSADRAIN, saved)


class Channels:
    """The conversation after the upgrade. `status` is the error channel's Status when the command has ended."""

    def __init__(self, sock: socket.socket, early: bytes, tty: bool) -> None:
        self.sock, self.tty = sock, tty
        self.decoder = websocket.Decoder()
        self.early = early
        self.status: dict | None = None
        self.open = True

    def send(self, channel: int, data: bytes, opcode: int = websocket.BINARY) -> None:
        payload = bytes([channel]) + data if opcode == websocket.BINARY else data
        self.sock.sendall(websocket.encode(opcode, payload, os.urandom(4)))

    def resize(self) -> None:
        with contextlib.suppress(OSError):
            size = os.get_terminal_size(0)
            self.send(RESIZE, json.dumps({"Width": size.columns, "Height": size.lines}).encode())

    def receive(self, data: bytes) -> None:
        for opcode, payload in self.decoder.feed(data):
            if opcode == websocket.CLOSE:
                self.open = False
            elif opcode == websocket.PING:
                self.send(0, payload, websocket.PONG)
            elif opcode in (websocket.BINARY, websocket.TEXT) and payload:
                self.deliver(payload[0], payload[1:])

    def deliver(self, channel: int, data: bytes) -> None:
        if channel in (STDOUT, STDERR):
            out = (sys.stdout if channel == STDOUT else sys.stderr).buffer
            out.write(data)
            out.flush()
        elif channel == ERROR and data:
            self.status = json.loads(data)

    def pump(self, stdin: bool) -> None:
        """Until the server closes. The socket is TLS: what OpenSSL has already decrypted does not wake select."""
        self.receive(self.early)
        pending = getattr(self.sock, "pending", lambda: 0)
        reading = stdin
        while self.open:
            sources = [self.sock] + ([0] if reading else [])
            ready = [self.sock] if pending() else select.select(sources, [], [])[0]
            if 0 in ready:
                data = os.read(0, 32768)
                if data:
                    self.send(STDIN, data)
                else:
                    reading = False
                    self.send(CLOSE, bytes([STDIN]))
            if self.sock in ready:
                data = self.sock.recv(65536)
                self.open = bool(data) and self.open
                self.receive(data)


def exit_code(status: dict | None) -> int:
    """0 for Success, the command's own code for NonZeroExitCode. Raises CommandError for what kept it from running."""
    if status is None:
        raise CommandError("the connection was closed before the command ended")
    if status.get("status") == "Success":
        return 0
    if status.get("reason") == "NonZeroExitCode":
        code = next((c["message"] for c in (status.get("details") or {}).get("causes") or [] if c.get("reason") == "ExitCode"), "1")
        print(f"command terminated with exit code {code}", file=sys.stderr)
        return int(code)
    raise CommandError(status.get("message") or "unknown failure")


def run(session: Session, args: argparse.Namespace) -> int:
    if not args.rest:
        raise CommandError("you must specify at least one command for the container" if args.what else "pod, type/name or --filename must be specified")
    if len(args.what) != 1:
        raise CommandError("exec [POD] [COMMAND] is not supported anymore. Use exec [POD] -- [COMMAND] instead" if args.what else "pod, type/name or --filename must be specified")
    pod = session.client.get(kinds.PODS, logs.pod_name(args.what[0]), session.namespace)
    tty = args.tty and args.stdin and os.isatty(0)
    if args.tty and args.stdin and not tty:
        print("Unable to use a TTY - input is not a terminal or the right kind of file", file=sys.stderr)
    tty = tty or (args.tty and not args.stdin)
    query = {
        "command": args.rest, "container": args.container or logs.default_container(pod, not args.quiet), "stdin": args.stdin, "stdout": True, "stderr": not tty, "tty": tty,
    }  # fmt: skip
    path = kinds.PODS.path(session.namespace, pod["metadata"]["name"], "exec")
    sock, _, early = session.client.upgrade(path, query=query, headers=websocket.upgrade_headers(PROTOCOLS))
    sock.settimeout(None)
    channels = Channels(sock, early, tty)
    try:
        with raw_terminal(tty and args.stdin):
            if tty:
                channels.resize()
                signal.signal(signal.SIGWINCH, lambda *_: channels.resize())
            channels.pump(args.stdin)
    finally:
        sock.close()
    return exit_code(channels.status)
