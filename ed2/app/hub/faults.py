"""What went wrong with the hub, in words that say what to do. Needs no torch."""

import errno

from ed2.disk import plain_reason
from ed2.errors import Ed2Error, ModelError, Problem, printable, shown

PORTAL = "the answer does not come from the hub; it may be the login page of a network."
LOG_IN = "Open a web page in a browser, log in to the network if it asks, and try again."
KEPT = "What was downloaded is kept: run the same command again to continue."
LOGGED_IN = "log in with: .venv/bin/hf auth login (or set HF_TOKEN)"


class WrongContentError(Exception):
    """A file is not what the hub says it is."""


class NotTheHubError(Exception):
    """Something other than the hub has answered."""


def explained(error: Exception, name: str, endpoint: str, *, has_token: bool) -> Ed2Error:
    """The error to show for what a request or a download has raised."""
    if isinstance(error, Ed2Error):
        return error
    what, fix = _words(error, name, endpoint, has_token=has_token)
    return ModelError(f"{printable(name)} cannot be downloaded:", [Problem(None, what, fix)])


def _words(error: Exception, name: str, endpoint: str, *, has_token: bool) -> tuple[str, str]:
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

    if isinstance(error, OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set, which forbids every download.", "Remove it from the environment."
    if isinstance(error, HFValidationError):
        return "this is not the name of a public model.", "Write it as owner/name, or owner/name/FILE."
    if isinstance(error, HfHubHTTPError):
        return _refusal(error, name, endpoint, has_token=has_token)
    if isinstance(error, WrongContentError):
        return str(error), "It was removed. Run the same command again to download it again."
    if isinstance(error, NotTheHubError):
        return PORTAL, LOG_IN
    return _broken(error, endpoint)


def _broken(error: Exception, endpoint: str) -> tuple[str, str]:
    """What has ended a download: the network, or the disk."""
    if isinstance(error, ConnectionError) or type(error).__module__.startswith(("httpx", "httpcore")):
        reason = printable(str(error) or type(error).__name__, 200)
        return f"{endpoint} does not answer ({reason}).", f"Check the connection. {KEPT}"
    if not isinstance(error, OSError):
        return f"the download failed ({shown(error)}).", f"Try again. {KEPT}"
    if error.errno is None:
        return "a file was cut short while it was downloaded.", f"Check the connection. {KEPT}"
    fix = "Free some space, or choose another folder." if error.errno in (errno.ENOSPC, errno.EFBIG) else ""
    return f"it cannot be written: {plain_reason(error)}.", f"{fix or 'Check the folder and the drive.'} {KEPT}"


def _refusal(error: Exception, name: str, endpoint: str, *, has_token: bool) -> tuple[str, str]:
    """What the hub has refused."""
    from huggingface_hub.errors import EntryNotFoundError, GatedRepoError, RepositoryNotFoundError

    page, status = f"{endpoint}/{name}", getattr(getattr(error, "response", None), "status_code", 0)
    if isinstance(error, GatedRepoError):
        if has_token:
            return "its owner has not granted your account access.", f"Ask for it at {page}, and try again."
        return "its owner asks for a login.", f"Accept its licence at {page}, then {LOGGED_IN}."
    if isinstance(error, RepositoryNotFoundError):
        return (
            f"there is no public model of that name on {endpoint}.",
            f"Check {page}. For a private model, {LOGGED_IN}.",
        )
    if isinstance(error, EntryNotFoundError):
        return "one of its files no longer exists.", "The model has been updated: try again."
    if status in (401, 403):
        fix = f"Check what {page} asks for" + (", and the token." if has_token else f", then {LOGGED_IN}.")
        return f"the hub refuses access (HTTP {status}).", fix
    if status == 429:
        return "the hub has received too many requests from here (HTTP 429).", f"Wait a few minutes. {KEPT}"
    return f"the hub reports an error (HTTP {status}).", f"Try again later. {KEPT}"
