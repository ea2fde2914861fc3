"""Looks up a public model, and downloads it into the hub's own cache or a folder; broken downloads are continued.

Requests and errors are those of `huggingface_hub`. It does not continue what another process has begun (2.4), nor
compare hashes; that is done here.
"""

import errno
import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from ed2.app.hub.files import MAX_FILES, SHA256, Destination, HubFile, Offer, is_right, needed_files
from ed2.disk_errors import plain_reason
from ed2.errors import Ed2Error, ModelError, Problem, printable, shown
from ed2.models.files.base_model import PUBLIC_EXAMPLE, PUBLIC_NAME
from ed2.small_files import is_file

NOT_STATED = "not stated"
HOW_NAMED = f"Write it as owner/name, or owner/name/FILE: {PUBLIC_EXAMPLE}, for example."
_COMMIT = re.compile(r"[0-9a-f]{40}")
_PAGE = (b"<!doctype", b"<html", b"<?xml")
_T = TypeVar("_T")

OnProgress = Callable[[int, int, str], object]
"""Called with the bytes that are here, all bytes, and the name of the file."""
PORTAL = "the answer does not come from the hub; it may be the login page of a network."
LOG_IN = "Open a web page in a browser, log in to the network if it asks, and try again."
KEPT = "What was downloaded is kept: run the same command again to continue."
LOGGED_IN = "log in with: .venv/bin/hf auth login (or set HF_TOKEN)"


class Hub:
    """The hub at `HF_ENDPOINT`; a token is sent only to what refuses an answer without one, and kept nowhere."""

    def __init__(self) -> None:
        from huggingface_hub import constants
        from huggingface_hub.utils import disable_progress_bars, logging

        disable_progress_bars()
        logging.set_verbosity_error()
        self.endpoint, self.cache = constants.ENDPOINT, Path(constants.HF_HUB_CACHE)
        self._token: str | bool = False

    def look_up(self, name: str) -> Offer:
        """What would be downloaded for `owner/name` or `owner/name/FILE`.

        Raises:
            ModelError: there is no such model, or the hub does not answer.
        """
        if not PUBLIC_NAME.fullmatch(name) or ".." in name.split("/"):
            problem = Problem(None, "this is not the name of a public model.", HOW_NAMED)
            raise ModelError(f"{printable(name, 200)} cannot be downloaded:", [problem])
        owner, model, *inside = name.split("/")
        repository = f"{owner}/{model}"
        try:
            return self._offer(repository, "/".join(inside))
        except Exception as error:  # of many types, from several libraries
            raise explained(error, repository, self.endpoint, has_token=bool(self._token)) from error

    def download(self, offer: Offer, target: Path | None, on_progress: OnProgress) -> Path:
        """Download what was offered, into the cache or the folder `target`, and compare the hash of every file.

        Returns:
            The folder, or the single file.

        Raises:
            ModelError: it could not be completed; what was downloaded is kept.
        """
        place = Destination(self.cache, offer, target)
        try:
            place.require_room()
            done = 0
            for file in offer.files:
                self._fetch(offer, file, place, Counter(on_progress, done, offer.num_bytes, file.name))
                done += file.num_bytes
            place.finish()
        except Exception as error:  # of many types, from several libraries
            raise explained(error, offer.name, self.endpoint, has_token=bool(self._token)) from error
        return place.result

    def _offer(self, name: str, inside: str) -> Offer:
        from huggingface_hub import HfApi

        api = HfApi(endpoint=self.endpoint)
        try:
            info = self._asked(lambda token: api.model_info(name, files_metadata=True, token=token))
        except (json.JSONDecodeError, TypeError, KeyError, AttributeError):  # the library takes any JSON for the hub's
            raise NotTheHubError from None
        siblings = info.siblings or []
        if not _COMMIT.fullmatch(str(info.sha)) or len(siblings) > MAX_FILES:
            raise NotTheHubError
        files = [file for sibling in siblings if (file := _hub_file(sibling))]
        wanted = tuple(needed_files(name, inside, files))
        return Offer(name, inside, str(info.sha), wanted, _licence_of(info), bool(info.gated))

    def _fetch(self, offer: Offer, file: HubFile, place: Destination, on_count: Callable[[int], object]) -> None:
        """Download one file, unless it is here, from where an earlier download has stopped."""
        from huggingface_hub.utils import WeakFileLock

        on_count(0)
        if place.has(file):
            on_count(file.num_bytes)
            return
        partial = place.partial(file)
        partial.parent.mkdir(parents=True, exist_ok=True)
        lock = partial.with_name(f"{partial.name}.lock")
        with WeakFileLock(lock):
            if partial.is_file() and partial.stat().st_size > file.num_bytes:
                partial.unlink()
            try:
                self._receive(offer, file, partial, on_count)
            except OSError:
                _refuse_page(partial)
                raise
            _require_content(file, partial)
            place.put(file, partial)
        lock.unlink(missing_ok=True)

    def _receive(self, offer: Offer, file: HubFile, partial: Path, on_count: Callable[[int], object]) -> None:
        from huggingface_hub import get_hf_file_metadata, hf_hub_url
        from huggingface_hub.file_download import http_get
        from huggingface_hub.utils import build_hf_headers

        url = hf_hub_url(offer.name, file.name, revision=offer.commit, endpoint=self.endpoint)
        found = self._asked(lambda token: get_hf_file_metadata(url, token=token, endpoint=self.endpoint))
        if found.etag != file.digest or found.size not in (None, file.num_bytes) or not found.location:
            raise NotTheHubError
        is_own = urlsplit(found.location).netloc == urlsplit(url).netloc  # another server must not get the token
        headers = build_hf_headers(token=self._token if is_own else False)
        with CountingFile(partial, on_count) as stream:
            size = stream.tell()
            http_get(found.location, stream, resume_size=size, headers=headers, expected_size=file.num_bytes)

    def _asked(self, ask: Callable[[str | bool], _T]) -> _T:
        """The answer to a request, with a token only if the hub refuses it without."""
        from huggingface_hub import get_token
        from huggingface_hub.errors import HfHubHTTPError

        try:
            return ask(self._token)
        except HfHubHTTPError as error:
            token = get_token()
            if self._token or not token or error.response.status_code not in (401, 403):
                raise
            self._token = token
            return ask(token)


@dataclass(frozen=True)
class Counter:
    """Reports how much of a model is here, as one of its files grows."""

    on_progress: OnProgress
    num_before: int
    total: int
    name: str

    def __call__(self, count: int) -> None:
        """Report that `count` bytes of the file are here."""
        self.on_progress(self.num_before + count, self.total, self.name)


class CountingFile(FileIO):
    """A file that is continued at its end, and reports its length as it grows."""

    def __init__(self, path: Path, on_count: Callable[[int], object]) -> None:
        super().__init__(path, "r+" if path.is_file() else "w+")
        self._on_count = on_count
        self.seek(0, os.SEEK_END)

    def write(self, content: Any) -> int:
        """Write all of `content`."""
        rest = memoryview(content)
        while rest:
            rest = rest[super().write(rest) or 0 :]
        self._on_count(self.tell())
        return len(content)


def _hub_file(sibling: Any) -> HubFile | None:
    """A file of the hub's list; None if the list does not say its size or hash."""
    name, size = sibling.rfilename, sibling.size
    lfs = sibling.lfs
    digest = str(lfs.sha256 if lfs else sibling.blob_id)
    is_whole = isinstance(name, str) and isinstance(size, int) and size >= 0
    if not is_whole or not (SHA256 if lfs else _COMMIT).fullmatch(digest):
        return None
    return HubFile(name, size, digest)


def _licence_of(info: Any) -> str:
    """The licence that a model card names; anyone may have written it."""
    card = info.card_data or {}
    texts = [card.get(key) for key in ("license", "license_name")]
    words = [printable(text) for text in texts if isinstance(text, str) and text.strip()]
    return " / ".join(words) or NOT_STATED


def _refuse_page(path: Path) -> None:
    """Remove what was received if it is a web page. Raises NotTheHubError."""
    if not is_file(path):
        return
    with path.open("rb") as stream:
        begin = stream.read(512).lstrip().lower()
    if begin.startswith(_PAGE):
        path.unlink()
        raise NotTheHubError


def _require_content(file: HubFile, path: Path) -> None:
    """Compare the hash of a received file, and remove one that is wrong. Raises WrongContentError, NotTheHubError."""
    if is_right(file, path):
        return
    _refuse_page(path)
    path.unlink()
    raise WrongContentError(f"the content of {printable(file.name, 200)} is not what the hub says it is.")


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
        return "this is not the name of a public model.", HOW_NAMED
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
