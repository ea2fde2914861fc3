"""The program that serves the page: `python webui.py`."""

import argparse
import getpass
import os
import secrets
import socket
import sys
import threading
import webbrowser
from collections.abc import Sequence
from pathlib import Path

from ed2.app.on_end import OnEnd
from ed2.app.page.folders import Roots
from ed2.app.service import TrainerService
from ed2.app.signals import STOPPING, stopping_on_signals
from ed2.app.snapshot import RunSnapshot
from ed2.app.user_files import preset_values
from ed2.disk_errors import plain_reason
from ed2.errors import Ed2Error, Problem, SettingsError, printable
from ed2.settings.files import PROGRAM_DIR
from ed2.small_files import open_file
from ed2.terminal import LAUNCHER
from ed2.text import shown_path
from ed2.ui.app import OwnerPage
from ed2.ui.context import Context
from ed2.ui.guard import Hosts
from ed2.ui.serving import LOOPBACK_NAMES, MAX_PORT, serve

OWNER = "owner"
PASSWORD_VARIABLE = "ED2_OWNER_PASSWORD"
MAX_PASSWORD_BYTES = 1000
ON_COMMAND_LINE = (
    f"Note: other users of this computer can read --owner_password in its list of processes. "
    f"Set {PASSWORD_VARIABLE} or use --owner_password_file instead."
)
WAKES_SECONDS = 1.0
NO_DATA_DIRS = (
    "From the network, only image folders inside the program's own folder can be opened. Name others with --data_dirs."
)


def main(argv: Sequence[str]) -> int:
    """Serve the page until Ctrl-C or a termination, which stop and save a run in progress.

    Returns:
        0, or 1 and 2 if it cannot start.
    """
    options = build_parser().parse_args(argv)
    try:
        return run(options)
    except Ed2Error as error:
        print(f"\n{error}", file=sys.stderr)
        return error.exit_code


def run(options: argparse.Namespace) -> int:
    """Serve the page with these options. Raises Ed2Error."""
    set_password(options)
    is_asked = threading.Event()
    signals: list[int] = []
    contexts: list[Context] = []

    def stop(number: int) -> None:
        signals.append(number)
        is_asked.set()

    def words() -> str:
        is_active = any(context.service.snapshot().is_active for context in contexts)
        return STOPPING if is_active else "Exiting; no run is in progress."

    with stopping_on_signals(stop, words):
        context = context_of(options)
        contexts.append(context)
        page = serve_owner(context, options)
        context.show_runs()
        threading.Thread(target=context.service.read_libraries, name="libraries", daemon=True).start()
        if options.share:
            context.sharing.start()
            print(context.sharing.as_text(), flush=True)
        while not is_asked.wait(WAKES_SECONDS):  # Windows delivers no signal during a wait without a timeout
            pass
        is_active = context.service.snapshot().is_active
        context.service.close(signals[0])
        if is_active:
            print(exit_message(context.service.snapshot()), flush=True)
        context.sharing.close()
        page.close()
    return 0


def serve_owner(context: Context, options: argparse.Namespace) -> OwnerPage:
    """Serve the owner's page, print where it is, and open it in a browser. Raises Ed2Error."""
    login = login_of(options)
    hosts = Hosts(LOOPBACK_NAMES)
    server_name = "127.0.0.1"
    if options.listen:
        hosts = Hosts([*LOOPBACK_NAMES, *_own_names()])
        server_name = "0.0.0.0"
    page = OwnerPage(context)
    threading.Thread(target=page.dataset.check_kept, name="check", daemon=True).start()
    images = context.images
    port = serve(page.blocks, port=options.port, hosts=hosts, images=images, login=login, server_name=server_name)
    for line in startup_message(options, port, login):
        print(line, flush=True)
    if not options.no_browser:
        webbrowser.open(f"http://127.0.0.1:{port}/")
    return page


def startup_message(options: argparse.Namespace, port: int, login: tuple[str, str] | None) -> list[str]:
    """What the terminal says when the page is served."""
    lines = []
    if port != options.port:
        lines.append(f"Port {options.port} is in use; the page uses another one.")
    lines.append(f"Page: http://127.0.0.1:{port}/")
    if options.listen:
        lines.append(f"On your network: http://{socket.gethostname()}:{port}/")
    if login:
        password = "the one that was set" if options.owner_password else login[1]
        lines.append(f"User {login[0]}, password: {password}")
    if options.listen and not options.data_dirs:
        lines.append(NO_DATA_DIRS)
    return [*lines, "Press Ctrl-C to exit; a run in progress is stopped and saved first."]


def exit_message(shown: RunSnapshot) -> str:
    """How the run that was stopped at exit ended, and how to resume it."""
    text = f"Run {shown.project}: {shown.state} at step {shown.step:,}"
    text += f" ({shown.detail.rstrip('.')})." if shown.detail else "."
    if shown.checkpoint is None:
        return f"{text} It has no checkpoint."
    text += f" Saved: {shown_path(shown.checkpoint)}."
    if shown.state != "done":
        text += " To resume it, open the page again and press Resume in the Resume tab."
    return text


def context_of(options: argparse.Namespace) -> Context:
    """The context of the page. Raises SettingsError if the preset or on_end cannot be used."""
    begin: dict[str, object] = preset_values(Path(options.preset).absolute()) if options.preset else {}
    if options.logdir:
        begin["logdir"] = str(Path(options.logdir).absolute())
    roots = Roots()
    if options.listen or options.data_dirs:
        folders = [*(options.data_dirs or ()), PROGRAM_DIR]
        if "logdir" in begin:
            folders.append(begin["logdir"])
        roots = Roots(tuple(Path(folder).absolute() for folder in folders))
    service = TrainerService(on_end=OnEnd(options.on_end).require_valid())
    return Context(service=service, roots=roots, begin=begin, is_preset_given=bool(options.preset))


def set_password(options: argparse.Namespace) -> None:
    """Find the owner's password where it was set, and take it out of the environment, which other programs inherit.

    Raises:
        SettingsError: its file cannot be read, or is empty.
    """
    from_environment = os.environ.pop(PASSWORD_VARIABLE, "")
    if options.owner_password:
        print(ON_COMMAND_LINE, file=sys.stderr)
    elif options.owner_password_file == "-":
        options.owner_password = getpass.getpass("Password of the page: ")
    elif options.owner_password_file:
        options.owner_password = _password_in(Path(options.owner_password_file))
    else:
        options.owner_password = from_environment


def _password_in(path: Path) -> str:
    try:
        with open_file(path) as file:
            words = file.read(MAX_PASSWORD_BYTES).decode().strip()
        why = "" if words else "the file is empty"
    except (OSError, ValueError) as error:
        words, why = "", plain_reason(error)
    if why:
        problem = Problem("owner_password_file", f"{printable(str(path), 200)} cannot be used: {why}.", "Put it there.")
        raise SettingsError("The page cannot be served:", [problem])
    return words


def login_of(options: argparse.Namespace) -> tuple[str, str] | None:
    """The owner's user and password: always on the network, on the computer itself only if one was set."""
    if options.owner_password:
        return OWNER, options.owner_password
    return (OWNER, secrets.token_urlsafe(9)) if options.listen else None


def _own_names() -> list[str]:
    """Names and addresses of this computer on its network."""
    name = socket.gethostname()
    names = [name, f"{name}.local"]
    try:
        names += socket.gethostbyname_ex(name)[2]
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect(("192.0.2.1", 9))  # sends nothing: the system only picks its own address
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


def build_parser() -> argparse.ArgumentParser:
    """The command line of `./launch.sh webui`."""
    about = "Open the trainer in a browser."
    parser = argparse.ArgumentParser(prog=f"{LAUNCHER} webui", description=about, allow_abbrev=False)
    parser.add_argument("--port", type=_port, default=7860, help="port of the page, or the next free one of 20")
    parser.add_argument("--no_browser", action="store_true", help="do not open a browser")
    parser.add_argument("--preset", metavar="FILE", help="start with these settings")
    parser.add_argument("--logdir", metavar="DIR", help="runs folder")
    parser.add_argument("--listen", action="store_true", help="serve the page on the network, with a password")
    parser.add_argument("--share", action="store_true", help="create a link to the read-only monitor page")
    text = f"ask for the password in this file, as with {PASSWORD_VARIABLE}; - asks for it at the start"
    parser.add_argument("--owner_password_file", metavar="FILE", help=text)
    text = "the password itself, which other users of this computer can read"
    parser.add_argument("--owner_password", metavar="P", help=text)
    text = "command or http(s) address that is told how each run ended"
    parser.add_argument("--on_end", metavar="COMMAND", help=text)
    parser.add_argument("--data_dirs", nargs="+", metavar="DIR", help="the only folders the page may open")
    return parser
