"""Opening a folder in the file manager of this computer."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from ed2.disk import plain_reason
from ed2.errors import Ed2Error

OPENERS = {"darwin": "open", "linux": "xdg-open"}


def open_folder(folder: Path) -> None:
    """Show a folder in the file manager. Raises Ed2Error where there is none."""
    try:
        if sys.platform == "win32":
            os.startfile(folder)
            return
        opener = shutil.which(OPENERS.get(sys.platform, "xdg-open"))
        has_screen = sys.platform == "darwin" or any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))
        if opener and has_screen:
            subprocess.Popen(
                [opener, str(folder)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
            return
        why = "this computer has no file manager or no screen"
    except OSError as error:
        why = plain_reason(error)
    raise Ed2Error("The folder cannot be opened", f"{why}.", f"It is {folder}.")
