"""A share service of this computer alone: it forwards a port, as Gradio's tunnel program does across the network."""

import stat
import sys
from pathlib import Path

PROGRAM = """#!{python}
import socket, sys, threading, time

target = int(sys.argv[sys.argv.index("-l") + 1])
listener = socket.create_server(("127.0.0.1", 0))
print(f"start proxy success: http://shared.localhost:{{listener.getsockname()[1]}}", flush=True)


def copy(source, drain):
    try:
        while data := source.recv(65536):
            drain.sendall(data)
        drain.shutdown(socket.SHUT_WR)
    except OSError:
        pass


while True:
    try:
        near, _ = listener.accept()
        far = socket.create_connection(("127.0.0.1", target))
    except OSError:  # as many connections as this program may open, or the page takes no more
        near = far = None
        time.sleep(0.05)
        continue
    for pair in ((near, far), (far, near)):
        threading.Thread(target=copy, args=pair, daemon=True).start()
"""


def write_program(folder: Path) -> Path:
    """The program that Gradio starts to share a page, with the same answers."""
    path = folder / "tunnel"
    path.write_text(PROGRAM.format(python=sys.executable))
    path.chmod(path.stat().st_mode | stat.S_IEXEC)
    return path
