"""A hub on this computer, with the endpoints that huggingface_hub asks: models, and files with ranges."""

import hashlib
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from ed2.settings.files import PROGRAM_DIR

COMMIT = "a" * 40
PAGE = b"<!DOCTYPE html><html><body>Please sign in to the network</body></html>"
LARGE = (".safetensors", ".bin", ".ckpt")
BREAKABLE = 1 << 20
"""Answers of more bytes may break off."""


def digest_of(name: str, content: bytes) -> str:
    if name.endswith(LARGE):
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@dataclass
class LocalHub:
    """What the hub holds, how it misbehaves, and what it was asked.

    Attributes:
        files: content by name.
        about: more fields of the answer about the model.
        breaks: bytes after which it hangs up in the middle of a file, one for each of the next large answers.
        changed: content that is sent in place of the right one, by name.
        refuses: the status and error code that every file gets without the token.
        is_portal: whether a login page answers everything.
        stalls: whether a large answer stops in the middle and the line stays open.
        asked: method, path, range and whether a token came with it.
    """

    name: str = "owner/tiny"
    files: dict[str, bytes] = field(default_factory=dict)
    about: dict[str, Any] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    breaks: list[int] = field(default_factory=list)
    changed: dict[str, bytes] = field(default_factory=dict)
    refuses: tuple[int, str] | None = None
    token: str = ""
    is_portal: bool = False
    stalls: bool = False
    asked: list[tuple[str, str, str, str]] = field(default_factory=list)
    url: str = ""

    def listing(self) -> dict[str, Any]:
        siblings = []
        for name, content in self.files.items():
            digest, size = digest_of(name, content), self.sizes.get(name, len(content))
            one: dict[str, Any] = {"rfilename": name, "size": size, "blobId": digest}
            if name.endswith(LARGE):
                one |= {"blobId": "b" * 40, "lfs": {"sha256": digest, "size": size, "pointerSize": 134}}
            siblings.append(one)
        card = {"cardData": {"license": "creativeml-openrail-m"}, "gated": False}
        return {"id": self.name, "sha": COMMIT, "private": False, "siblings": siblings, **card, **self.about}

    def fetched(self) -> list[str]:
        """The files that were sent, in order."""
        sent = [path for method, path, _, _ in self.asked if method == "GET" and "/resolve/" in path]
        return [path.rpartition(f"/resolve/{COMMIT}/")[2] for path in sent]

    def ranges(self) -> list[str]:
        """The ranges that were asked for, in order."""
        return [range_ for method, _, range_, _ in self.asked if method == "GET" and range_]


class Handler(BaseHTTPRequestHandler):
    hub: LocalHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        hub, path = self.hub, unquote(self.path.partition("?")[0])
        token = self.headers.get("Authorization", "")
        hub.asked.append((self.command, path, self.headers.get("Range", ""), token))
        if hub.is_portal:
            self._send(200, PAGE, {"Content-Type": "text/html"})
        elif path == f"/api/models/{hub.name}":
            self._send(200, json.dumps(hub.listing()).encode(), {"Content-Type": "application/json"})
        elif path.startswith(f"/{hub.name}/resolve/"):
            self._file(path.split("/", 5)[5], token)
        else:
            self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"})

    def _file(self, name: str, token: str) -> None:
        hub = self.hub
        if hub.refuses and token != f"Bearer {hub.token}":
            status, code = hub.refuses
            self._send(status, b"{}", {"X-Error-Code": code} if code else {})
            return
        if name not in hub.files:
            self._send(404, b"{}", {"X-Error-Code": "EntryNotFound"})
            return
        size = len(hub.files[name])
        headers = {"ETag": f'"{digest_of(name, hub.files[name])}"', "X-Repo-Commit": COMMIT}
        if self.command == "HEAD":
            self._send(200, hub.files[name], headers)
            return
        content = hub.changed.get(name, hub.files[name])
        start = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        begin = int(start[1]) if start else 0
        if start:
            headers["Content-Range"] = f"bytes {begin}-{size - 1}/{size}"
        self._send(206 if start else 200, content[begin:], headers)

    def _send(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if self.hub.stalls and len(content) > BREAKABLE:
            self.wfile.write(content[:-1000])
            time.sleep(20)
            return
        if self.hub.breaks and len(content) > BREAKABLE:
            self.wfile.write(content[: self.hub.breaks.pop(0)])
            self.wfile.flush()
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        self.wfile.write(content)


@contextmanager
def serving(hub: LocalHub) -> Iterator[LocalHub]:
    """The hub on a free port."""
    handler = type("OwnHandler", (Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


def files_of(folder: Path) -> dict[str, bytes]:
    """The content of a folder, by name, as a hub holds it."""
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def environment(home: Path, url: str, **more: str) -> dict[str, str]:
    """That of a program which asks this hub, with a cache of its own and no token."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
    return {**own, "HF_HOME": str(home), "HF_ENDPOINT": url, "PYTHONUTF8": "1", **more}


def download(
    hub: LocalHub, home: Path, *words: str, answer: str = "", url: str = "", **more: str
) -> "subprocess.CompletedProcess[str]":
    """`python -m ed2 download` in a process of its own, since the library reads its environment once."""
    return subprocess.run(
        [sys.executable, "-m", "ed2", "download", *words],
        cwd=PROGRAM_DIR,
        env=environment(home, url or hub.url, **more),
        input=answer,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
