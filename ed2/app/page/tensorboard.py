"""TensorBoard as a child process, for this computer only; it exits with this program, even when that is killed.

The child runs `python -m ed2.app.page.tensorboard FLAG ...`.
"""

import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path

from ed2.app.signals import exit_with_parent
from ed2.errors import Ed2Error
from ed2.settings.files import PROGRAM_DIR

START_SECONDS = 60.0


@dataclass
class TensorBoard:
    """At most one TensorBoard, started when it is first asked for."""

    _process: "subprocess.Popen[bytes] | None" = field(default=None, repr=False)
    _shown: tuple[Path, str] | None = None

    def start(self, logdir: Path) -> str:
        """Show a runs folder.

        Returns:
            The address.

        Raises:
            Ed2Error: it did not start.
        """
        if self._shown and self._shown[0] == logdir and self._process and self._process.poll() is None:
            return self._shown[1]
        self.close()
        port = _free_port()
        command = [sys.executable, "-m", "ed2.app.page.tensorboard", "--logdir", str(logdir)]
        command += ["--host", "127.0.0.1", "--port", str(port)]
        pipe, nowhere = subprocess.PIPE, subprocess.DEVNULL
        self._process = subprocess.Popen(command, cwd=PROGRAM_DIR, stdin=pipe, stdout=nowhere, stderr=nowhere)
        address = f"http://127.0.0.1:{port}/"
        self._wait_for(address)
        self._shown = logdir, address
        return address

    def close(self) -> None:
        """Stop it."""
        if self._process is not None:
            self._process.terminate()
            self._process.communicate(timeout=10)  # closes the pipe as well
            self._process = None

    def _wait_for(self, address: str) -> None:
        end = time.monotonic() + START_SECONDS
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # whatever proxy is set
        while time.monotonic() < end and self._process and self._process.poll() is None:
            try:
                with direct.open(address, timeout=5):
                    return
            except (urllib.error.URLError, OSError):
                time.sleep(0.2)
        self.close()
        raise Ed2Error("TensorBoard did not start", "", "Is the package tensorboard installed?")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    exit_with_parent()
    from tensorboard.main import run_main

    run_main()  # reads the flags from sys.argv
