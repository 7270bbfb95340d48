"""`minikctl logs`: what a container wrote, streamed as it comes."""

from __future__ import annotations

import argparse
import sys

from apiserver.api import kinds
from ctl.delete import seconds
from ctl.session import CommandError, Obj, Session

DEFAULT_CONTAINER = "kubectl.kubernetes.io/default-container"


def configure(p: argparse.ArgumentParser) -> None:
    p.add_argument("what", nargs="*", metavar="POD [CONTAINER]")
    p.add_argument("-c", "--container", default="")
    p.add_argument("-l", "--selector", default="")
    p.add_argument("--all-containers", action="store_true")
    p.add_argument("-f", "--follow", action="store_true")
    p.add_argument("-p", "--previous", action="store_true")
    p.add_argument("--tail", type=int, default=None)
    p.add_argument("--since", default="")
    p.add_argument("--since-time", default="")
    p.add_argument("--timestamps", action="store_true")
    p.add_argument("--limit-bytes", type=int, default=0)
    p.add_argument("--prefix", action="store_true")


def pod_name(word: str) -> str:
    """`x` or `pod/x`. Raises CommandError."""
    kind, slash, name = word.rpartition("/")
    if slash and kinds.lookup(kind) != kinds.PODS:
        raise CommandError(f'only pods are supported here, not "{word}"')
    return name


def default_container(pod: Obj, notice: bool = True) -> str:
    """The annotated one, else the first; says so where there are several."""
    names = [c["name"] for c in pod["spec"]["containers"]]
    chosen = (pod["metadata"].get("annotations") or {}).get(DEFAULT_CONTAINER, "")
    if chosen and chosen in names:
        return chosen
    if len(names) > 1 and notice:
        extra = [f"{c['name']} (init)" for c in pod["spec"].get("initContainers") or []]
        print(f'Defaulted container "{names[0]}" out of: {", ".join(names + extra)}', file=sys.stderr)
    return names[0]


def query(args: argparse.Namespace, container: str) -> dict[str, str | int | bool]:
    q: dict[str, str | int | bool] = {"container": container}
    for name, on in (("follow", args.follow), ("previous", args.previous), ("timestamps", args.timestamps)):
        if on:
            q[name] = True
    tail = args.tail if args.tail is not None else (10 if args.selector else -1)
    if tail >= 0:
        q["tailLines"] = tail
    if args.since:
        q["sinceSeconds"] = max(1, round(seconds(args.since, "--since")))
    if args.since_time:
        q["sinceTime"] = args.since_time
    if args.limit_bytes:
        q["limitBytes"] = args.limit_bytes
    return q


def run(session: Session, args: argparse.Namespace) -> int:
    client = session.client
    if args.selector:
        pods = client.list(kinds.PODS, session.namespace, label_selector=args.selector)["items"]
        if not pods:
            print(f"No resources found in {session.namespace} namespace.", file=sys.stderr)
    elif not args.what:
        raise CommandError("expected 'logs [-f] [-p] POD [-c CONTAINER]'.\nPOD or TYPE/NAME is a required argument for the logs command")
    else:
        pods = [client.get(kinds.PODS, pod_name(args.what[0]), session.namespace)]
    chosen = args.container or (args.what[1] if len(args.what) > 1 else "")
    jobs = []
    for pod in pods:
        every = [c["name"] for c in (pod["spec"].get("initContainers") or []) + pod["spec"]["containers"]]
        if chosen and chosen not in every:
            raise CommandError(f"container {chosen} is not valid for pod {pod['metadata']['name']}")
        jobs += [(pod["metadata"]["name"], c) for c in (every if args.all_containers else [chosen or default_container(pod)])]
    if args.follow and len(jobs) > 1:
        return _follow_all(session, args, jobs)
    for pod_, container in jobs:
        _copy(session, args, pod_, container, prefix=args.prefix)
    return 0


def _copy(session: Session, args: argparse.Namespace, pod: str, container: str, prefix: bool) -> None:
    out = sys.stdout.buffer
    head = f"[pod/{pod}/{container}] ".encode() if prefix else b""
    rest = b""
    for chunk in session.client.stream("GET", kinds.PODS.path(session.namespace, pod, "log"), query=query(args, container), accept="*/*"):
        if head:
            *lines, rest = (rest + chunk).split(b"\n")
            chunk = b"".join(head + line + b"\n" for line in lines)
        out.write(chunk)
        out.flush()
    if rest:
        out.write(head + rest + b"\n")
        out.flush()


def _follow_all(session: Session, args: argparse.Namespace, jobs: list[tuple[str, str]]) -> int:
    """Several containers at once; each stream has a connection of its own (BlockingClient.stream opens one)."""
    import threading

    failures: list[Exception] = []

    def copy(pod: str, container: str) -> None:
        try:
            _copy(session, args, pod, container, prefix=args.prefix)
        except Exception as e:  # noqa: BLE001 — reported by the main thread
            failures.append(e)

    threads = [threading.Thread(target=copy, args=job, daemon=True) for job in jobs]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    if failures:
        raise failures[0]
    return 0
