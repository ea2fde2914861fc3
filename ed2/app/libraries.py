"""Loading the libraries that models need. Needs no torch until then."""

import gc
import os
import sys
import tempfile

from ed2.errors import Ed2Error
from ed2.garbage import without_collection


def read_libraries() -> None:
    """Load the libraries that models need, which takes seconds: quietly, and without asking the hub for anything.

    Raises:
        Ed2Error: no temporary file can be written.
    """
    require_temporary_folder()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    is_first = "diffusers" not in sys.modules
    with without_collection():  # which would take a third of the time
        from ed2.models.compute import quiet_libraries

        quiet_libraries()
    if is_first:
        gc.freeze()  # or each later collection would take 0.3 s to scan what always stays


def require_temporary_folder() -> None:
    """Check that temporary files can be written, since loading the libraries would otherwise end in a traceback.

    Raises:
        Ed2Error: no folder for them is writable, as on a full disk; names those that were tried.
    """
    try:
        tempfile.gettempdir()
    except FileNotFoundError as error:
        tried = (error.strerror or "").partition("found in ")[2].strip("[]").replace("'", "")
        why = f"the disk is full, or none of these is writable: {tried}."
        fix = "Free some space, or set TMPDIR (on Windows TEMP) to a folder on another drive."
        raise Ed2Error("No folder for temporary files is writable", why, fix) from None
