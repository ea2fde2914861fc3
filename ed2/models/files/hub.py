"""Public models that are in this machine's hub cache. Needs no torch, and downloads nothing."""

import re
from pathlib import Path

PUBLIC_NAME = re.compile(r"[\w.-]+/[\w.-]+")
"""owner/name"""


def in_hub_cache(name: str) -> Path | None:
    """The folder of a public model, `owner/name`, in this machine's hub cache; None where it is not there."""
    if not PUBLIC_NAME.fullmatch(name):
        return None
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError, OSError):
        return None
