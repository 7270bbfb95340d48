"""Prepares a machine and a checkout: system packages, `.venv` from the locked and hashed lists, Kubernetes' schema, a static busybox. `make` runs it with the system's
own python3 (standard library only, nothing of ours is imported). Says what it installs, touches nothing that is there, and does nothing the second time.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
VENV, CACHE = ROOT / ".venv", ROOT / ".cache"
SCHEMA_DIR = ROOT / "apiserver" / "api" / "data"
BUSYBOX = CACHE / "busybox"

# what must be there → the Debian (and Ubuntu) package that brings it
RUN_PACKAGES = {"nft": "nftables", "libseccomp.so.2": "libseccomp2"}
TEST_PACKAGES = {
    "etcd": "etcd-server", "etcdctl": "etcd-client", "docker-registry": "docker-registry", "skopeo": "skopeo", "umoci": "umoci", "ip": "iproute2",
    "nsenter": "util-linux", "curl": "curl", "openssl": "openssl",
}  # fmt: skip
LOCKS = {"run": "requirements.lock", "dev": "requirements-dev.lock"}


def say(message: str) -> None:
    print(f"minik setup: {message}", flush=True)


def run(argv: list[str], **kwargs) -> subprocess.CompletedProcess:
    """Runs quietly; on failure shows what the command said and stops."""
    done = subprocess.run(argv, check=False, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT, **kwargs)
    if done.returncode:
        print(done.stdout, file=sys.stderr)
        sys.exit(f"minik setup: `{' '.join(argv)}` failed with {done.returncode}")
    return done


def is_there(thing: str) -> bool:
    if ".so" in thing:
        return any(pathlib.Path(d).glob(f"**/{thing}") for d in ("/lib", "/usr/lib", "/usr/local/lib") if pathlib.Path(d).is_dir())
    return shutil.which(thing, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin") is not None


def apt(arguments: list[str]) -> None:
    """RUNLEVEL=1 keeps packages that bring a service (etcd-server) from starting it."""
    run(["apt-get", "-q", "-y", *arguments], env=os.environ | {"DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"})


def install_system_packages(wanted: dict[str, str]) -> None:
    missing = sorted({package for thing, package in wanted.items() if not is_there(thing)})
    if not missing:
        return
    if shutil.which("apt-get") is None:
        sys.exit(f"minik setup: please install what provides: {', '.join(t for t in wanted if not is_there(t))} (no apt-get here)")
    if os.geteuid():
        sys.exit(f"minik setup: root is needed to install {' '.join(missing)}")
    say(f"installing system packages: {' '.join(missing)}")
    apt(["update"])
    apt(["install", "--no-install-recommends", *missing])


def make_venv(kind: str) -> None:
    lock = ROOT / LOCKS[kind]
    digest = hashlib.sha256(lock.read_bytes() + (ROOT / "pyproject.toml").read_bytes() + str(ROOT).encode()).hexdigest()
    stamps = {k: VENV / f".minik-{k}" for k in LOCKS}
    if stamps[kind].exists() and stamps[kind].read_text() == digest:
        return
    if not (VENV / "bin" / "python").exists():
        if importlib.util.find_spec("ensurepip") is None:
            install_system_packages({"no-such-command": f"python{sys.version_info.major}.{sys.version_info.minor}-venv"})
        say(f"making .venv with Python {sys.version.split()[0]}")
        run([sys.executable, "-m", "venv", str(VENV)])
    say(f"installing {LOCKS[kind]} (locked, hashes checked)")
    pip = [str(VENV / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "-q", "install"]
    run([*pip, "--require-hashes", "-r", str(lock)])
    run([*pip, "--no-deps", "--no-build-isolation", "-e", "."])
    stamps[kind].write_text(digest)


def slice_schema() -> None:
    lock = ROOT / "requirements-schema.lock"
    sources = [ROOT / "apiserver" / "api" / name for name in ("build_schema.py", "build_openapi.py", "kinds.py")]
    digest = hashlib.sha256(b"".join(p.read_bytes() for p in [lock, *sources])).hexdigest()
    stamp = SCHEMA_DIR / ".stamp"
    if stamp.exists() and stamp.read_text() == digest:
        return
    say("slicing Kubernetes' API schema (a download of 6 MB, kept only as a slice)")
    python = str(VENV / "bin" / "python")
    with tempfile.TemporaryDirectory() as folder:
        run([python, "-m", "pip", "--disable-pip-version-check", "-q", "download", "--no-deps", "--require-hashes", "-r", str(lock), "-d", folder])
        wheel = next(pathlib.Path(folder).glob("*.whl"))
        run([python, "-m", "apiserver.api.build_schema", "--wheel", str(wheel)])
    stamp.write_text(digest)


def fetch_busybox() -> None:
    """Debian's busybox-static, unpacked rather than installed: the package conflicts with busybox."""
    if BUSYBOX.exists():
        return
    say("fetching Debian's static busybox (unpacked into .cache, not installed)")
    CACHE.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)  # apt's download user writes here
        command = ["apt-get", "-q", "download", "busybox-static"]
        if subprocess.run(command, check=False, cwd=folder, capture_output=True).returncode:
            apt(["update"])
            done = subprocess.run(command, check=False, cwd=folder, capture_output=True, text=True)
            if done.returncode:
                sys.exit(f"minik setup: cannot fetch busybox-static: {done.stderr.strip()}")
        package = next(pathlib.Path(folder).glob("busybox-static_*.deb"))
        run(["dpkg-deb", "-x", str(package), f"{folder}/tree"])
        binary = next(p for p in (pathlib.Path(folder, "tree", d, "busybox") for d in ("bin", "usr/bin")) if p.exists())
        shutil.copy2(binary, BUSYBOX.with_suffix(".new"))
        BUSYBOX.with_suffix(".new").rename(BUSYBOX)


def main() -> None:
    kind = sys.argv[1] if len(sys.argv) > 1 else "run"
    if kind not in LOCKS:
        sys.exit(f"usage: setup.py {'|'.join(LOCKS)}")
    if sys.version_info < (3, 11):  # noqa: UP036 — the system's python3 runs this
        sys.exit(f"minik setup: python3 is {sys.version.split()[0]}, minik needs 3.11 or newer")
    install_system_packages(RUN_PACKAGES | (TEST_PACKAGES if kind == "dev" else {}))
    make_venv(kind)
    slice_schema()
    fetch_busybox()


if __name__ == "__main__":
    main()
