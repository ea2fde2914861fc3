"""The program that serves the page: `python webui.py`."""

import argparse
import secrets
import socket
import sys
import threading
import webbrowser
from collections.abc import Sequence
from pathlib import Path

from ed2.app.command import stopping_on_signals
from ed2.app.page.folders import Roots
from ed2.app.snapshot import RunSnapshot
from ed2.app.user_files import preset_values
from ed2.errors import Ed2Error, printable
from ed2.settings.files import PROGRAM_DIR
from ed2.text import shown_path
from ed2.ui.app import owner_page
from ed2.ui.context import Context
from ed2.ui.guard import Hosts
from ed2.ui.serving import LOOPBACK_NAMES, MAX_PORT, serve

OWNER = "owner"
WAKES_SECONDS = 1.0
NO_DATA_DIRS = (
    "No folder of images outside the program's own may be opened from the network: name them with --data_dirs."
)


def main(argv: Sequence[str]) -> int:
    """Serve the page until Ctrl-C or a termination, which stop and save what is running.

    Returns:
        0, or 1 and 2 where it cannot start.
    """
    options = _parser().parse_args(argv)
    try:
        return run(options)
    except Ed2Error as error:
        print(f"\n{error}", file=sys.stderr)
        return error.exit_code


def run(options: argparse.Namespace) -> int:
    """Serve the page with these options. Raises Ed2Error."""
    asked = threading.Event()
    signals: list[int] = []

    def stop(number: int) -> None:
        signals.append(number)
        asked.set()

    with stopping_on_signals(stop):
        context = context_of(options)
        login = login_of(options)
        hosts = Hosts([*LOOPBACK_NAMES, *(_own_names() if options.listen else ())])
        name = "0.0.0.0" if options.listen else "127.0.0.1"
        page = owner_page(context)
        shelves = [context.samples, context.thumbs]
        port = serve(page, port=options.port, hosts=hosts, shelves=shelves, login=login, server_name=name)
        context.show_runs()
        _tell(options, port, login)
        threading.Thread(target=context.service.read_libraries, name="libraries", daemon=True).start()
        if options.share:
            context.sharing.start()
            print(context.sharing.as_text(), flush=True)
        while not asked.wait(WAKES_SECONDS):  # on Windows no signal is seen in a wait without an end
            pass
        is_active = context.service.snapshot().is_active
        context.service.close(signals[0])
        if is_active:
            print(told_end(context.service.snapshot()), flush=True)
        context.sharing.close()
        page.on_close()
        page.close(verbose=False)
    return 0


def told_end(shown: RunSnapshot) -> str:
    """What became of the run that the end of the program has ended, and how to go on with it."""
    begin = f"The run {shown.project} is {shown.state} at step {shown.step:,}"
    reason = f" ({shown.detail.rstrip('.')})." if shown.detail else "."
    if shown.checkpoint is None:
        return f"{begin}{reason} It has no checkpoint."
    go_on = "" if shown.state == "done" else " To go on, open the page again and press Continue in the tab Resume."
    return f"{begin}{reason} Saved: {shown_path(shown.checkpoint)}.{go_on}"


def context_of(options: argparse.Namespace) -> Context:
    """What the page works on. Raises SettingsError for a preset that cannot be read."""
    begin: dict[str, object] = preset_values(Path(options.preset).absolute()) if options.preset else {}
    if options.logdir:
        begin["logdir"] = str(Path(options.logdir).absolute())
    roots = Roots()
    if options.listen or options.data_dirs:
        own = [PROGRAM_DIR, *([Path(str(begin["logdir"]))] if "logdir" in begin else [])]
        roots = Roots((*(Path(folder).absolute() for folder in options.data_dirs or ()), *own))
    return Context(roots=roots, begin=begin, is_preset_given=bool(options.preset))


def login_of(options: argparse.Namespace) -> tuple[str, str] | None:
    """The owner's user and password: on the network always, at the computer itself only where one was asked for."""
    if options.owner_password:
        return OWNER, options.owner_password
    return (OWNER, secrets.token_urlsafe(9)) if options.listen else None


def _tell(options: argparse.Namespace, port: int, login: tuple[str, str] | None) -> None:
    if port != options.port:
        print(f"Port {options.port} is in use, so the page is at another.")
    print(f"The page: http://127.0.0.1:{port}/", flush=True)
    if options.listen:
        print(f"On your network: http://{socket.gethostname()}:{port}/", flush=True)
    if login:
        shown = "the one given with --owner_password" if options.owner_password else login[1]
        print(f"User {login[0]}, password: {shown}", flush=True)
    if options.listen and not options.data_dirs:
        print(NO_DATA_DIRS, flush=True)
    print("Ctrl-C stops and saves a run, and ends the program.", flush=True)
    if not options.no_browser:
        webbrowser.open(f"http://127.0.0.1:{port}/")


def _own_names() -> list[str]:
    """Names and addresses that this computer has on its network."""
    name = socket.gethostname()
    names = [name, f"{name}.local"]
    try:
        names += socket.gethostbyname_ex(name)[2]
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect(("192.0.2.1", 9))  # sends nothing: the system only chooses its address
            names.append(str(probe.getsockname()[0]))
    except OSError:
        pass
    return names


def _port(text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = 0
    if not 1 <= number <= MAX_PORT:
        raise argparse.ArgumentTypeError(f"a port is a whole number from 1 to {MAX_PORT}, not {printable(text)}")
    return number


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="webui.py", description="Open the trainer in a browser.", allow_abbrev=False)
    parser.add_argument("--port", type=_port, default=7860, help="port of the page; if busy, the next free one of 20")
    parser.add_argument("--no_browser", action="store_true", help="open no browser")
    parser.add_argument("--preset", metavar="FILE", help="begin with these settings")
    parser.add_argument("--logdir", metavar="DIR", help="folder of the runs")
    parser.add_argument("--listen", action="store_true", help="offer the page on the network, with a password")
    parser.add_argument("--share", action="store_true", help="make a link to the read-only monitor page")
    parser.add_argument("--owner_password", metavar="P", help="ask for this password also at this computer")
    parser.add_argument("--data_dirs", nargs="+", metavar="DIR", help="the only folders that the page may open")
    return parser
