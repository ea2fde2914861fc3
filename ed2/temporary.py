"""The folder for temporary files, without which the libraries cannot even be read."""

import tempfile

from ed2.errors import Ed2Error


def require_temporary_folder() -> None:
    """See that temporary files can be written, before libraries are read that end in a traceback where they cannot.

    Raises:
        Ed2Error: no folder for them can be written, as on a full disk; names those that were tried.
    """
    try:
        tempfile.gettempdir()
    except FileNotFoundError as error:
        tried = (error.strerror or "").partition("found in ")[2].strip("[]").replace("'", "")
        why = f"the disk is full, or these may not be written: {tried}."
        fix = "Free some space, or set TMPDIR (on Windows TEMP) to a folder on another drive."
        raise Ed2Error("No folder for temporary files can be written", why, fix) from None
