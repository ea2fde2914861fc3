"""A download as a child process, since the page's own process works offline.

It ends with this program, even when that is killed; what it has received by then is kept.
"""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from ed2.errors import RefusedError, printable
from ed2.models.files.base_model import PUBLIC_NAME
from ed2.settings.files import PROGRAM_DIR

LOOK_UP_SECONDS = 120.0
NO_NAME = "Enter the name of a public model as owner/name, for example stabilityai/sd-vae-ft-mse."
NO_ANSWER = "The download ended without an answer. Try again; what was received is kept."


@dataclass(frozen=True)
class DownloadStatus:
    """How far a download is.

    Attributes:
        state: idle; offered, with size and licence, until there is a yes; running; done, or failed.
        name: the public name.
        text: the error, or what to do with the result.
        size: in words.
        licence: as the model card says.
        done: bytes that are here, of `total`.
        path: of the result.
        is_model: whether the result can be trained.
    """

    state: Literal["idle", "offered", "running", "done", "failed"] = "idle"
    name: str = ""
    text: str = ""
    size: str = ""
    licence: str = ""
    is_gated: bool = False
    done: int = 0
    total: int = 0
    file: str = ""
    path: str = ""
    is_model: bool = False


@dataclass
class Downloader:
    """At most one download; every method may be called from any thread.

    Attributes:
        environment: of the child; by default that of this program when it started.
    """

    environment: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    _shown: DownloadStatus = DownloadStatus()
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _child: "subprocess.Popen[str] | None" = None
    _thread: threading.Thread | None = None

    @property
    def shown(self) -> DownloadStatus:
        """What the page shows."""
        return self._shown

    def look_up(self, name: str) -> None:
        """Ask the hub for size and licence of a model; takes seconds.

        Raises:
            RefusedError: a download is in progress.
        """
        with self._lock:
            self._require_idle()
            if not PUBLIC_NAME.fullmatch(name):
                self._shown = DownloadStatus("failed", printable(name), NO_NAME)
                return
            self._shown = DownloadStatus(name=name)
            self._child = self._start(name)
            timer = threading.Timer(LOOK_UP_SECONDS, self._child.kill)
            timer.start()
            try:
                self._follow(self._child)
            finally:
                timer.cancel()
            if self._shown.state == "idle":
                self._shown = DownloadStatus("failed", name, NO_ANSWER)

    def start(self) -> None:
        """Download what was offered and agreed to.

        Raises:
            RefusedError: nothing is offered, or a download is in progress.
        """
        with self._lock:
            self._require_idle()
            if self._shown.state != "offered":
                raise RefusedError("Cannot download", "nothing was looked up", "Look up a model first.")
            self._shown = replace(self._shown, state="running")
            self._child = self._start(self._shown.name, "--yes")
            self._thread = threading.Thread(target=self._work, args=(self._child,), name="download", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Stop the download, if there is one; what was received is kept."""
        child = self._child
        if child is not None and child.poll() is None:
            self._shown = replace(self._shown, text="Stopped. Download it again to continue.")
            child.terminate()

    def close(self) -> None:
        """Stop the download and wait for it."""
        self.stop()
        if self._thread is not None:
            self._thread.join(10)

    def _require_idle(self) -> None:
        if self._shown.state == "running":
            raise RefusedError("Cannot download now", "a download is in progress", "Stop it first, or wait.")

    def _start(self, name: str, *words: str) -> "subprocess.Popen[str]":
        command = [sys.executable, "-m", "ed2", "download", name, "--json", *words]
        pipe = subprocess.PIPE
        environment = {**self.environment, "PYTHONUTF8": "1"}
        return subprocess.Popen(
            command, cwd=PROGRAM_DIR, env=environment, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True
        )

    def _work(self, child: "subprocess.Popen[str]") -> None:
        self._follow(child)
        if self._shown.state == "running":  # it ended without a result
            self._shown = replace(self._shown, state="failed", text=self._shown.text or NO_ANSWER)

    def _follow(self, child: "subprocess.Popen[str]") -> None:
        with child:
            for line in child.stdout or ():
                self._shown = replace(self._shown, **json.loads(line))
