"""`python -m agent.images import|pull|list|remove|collect|busybox`: the node's images by hand, beside a running agent or without one."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from agent.images.model import Auth, Image, ImageError
from agent.images.store import ImageStore


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m agent.images", description="images of this node")
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--data-dir", default="/var/lib/minik", help="images live in DATA_DIR/images (default %(default)s)")
    commands = parser.add_subparsers(dest="command", required=True)

    def command(name: str, text: str) -> argparse.ArgumentParser:
        return commands.add_parser(name, help=text, description=text, parents=[shared])

    imports = command("import", "import a docker-archive or OCI layout: tar, gzipped tar or directory")
    imports.add_argument("path")
    imports.add_argument("--reference", default="", help="a name for an image that the archive leaves unnamed")
    pull = command("pull", "pull an image from its registry")
    pull.add_argument("reference")
    pull.add_argument("--username", default="")
    pull.add_argument("--password-stdin", action="store_true")
    pull.add_argument("--registries", default="", help="JSON file with endpoint, insecure, ca_file, username, password per registry (default DATA_DIR/registries.json)")
    lists = command("list", "list images")
    lists.add_argument("--json", action="store_true")
    command("remove", "forget a name of an image").add_argument("reference")
    command("collect", "delete layers that no image needs: only while no container of this node exists")
    command("busybox", "make localhost/busybox:1 from a static busybox").add_argument("--binary", default="", help="default: the busybox in PATH")
    return parser


def _show(images: list[Image]) -> None:
    rows = [("REFERENCE", "IMAGE ID", "LAYERS", "SIZE")]
    for image in images:
        for name in image.references or image.repo_digests or ("<none>",):
            rows.append((name, image.id[7:19], str(len(image.layers)), f"{image.size_bytes / 1e6:.1f}MB"))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    for row in rows:
        print("   ".join(text.ljust(width) for text, width in zip(row, widths)).rstrip())


def _run(options: argparse.Namespace) -> None:
    store = ImageStore(Path(options.data_dir) / "images")
    if options.command == "import":
        _show(store.import_archive(options.path, options.reference))
    elif options.command == "pull":
        from agent.images import fetch, registry

        auth = Auth(options.username, sys.stdin.readline().rstrip("\n") if options.password_stdin else "") if options.username else None
        _show([fetch.fetch(store, options.reference, auth, registry.load_settings(options.registries or str(Path(options.data_dir) / "registries.json")))])
    elif options.command == "list":
        images = store.list()
        if options.json:
            print(json.dumps([{"id": i.id, "references": i.references, "repoDigests": i.repo_digests, "sizeBytes": i.size_bytes} for i in images]))
        else:
            _show(images)
    elif options.command == "remove":
        store.remove(options.reference)
        print(f"Untagged: {options.reference}")
    elif options.command == "collect":
        print(f"{store.collect() / 1e6:.1f}MB freed")
    else:
        from agent.images import busybox

        _show([busybox.build(store, options.binary)])
    if options.command in ("import", "pull", "busybox"):
        store.layers.sync()


def main() -> None:
    try:
        _run(_parser().parse_args())
    except (ImageError, OSError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
