"""The page in the browser; the only part of the program that knows Gradio.

Before Gradio is imported, the program's requests to itself are kept away from proxies.
"""

import importlib.util
import os
from urllib.parse import urlsplit
from urllib.request import getproxies

LOOPBACK = ("127.0.0.1", "localhost", "::1")
SCHEMES = ("http", "https", "all")


def bypass_proxies() -> None:
    """Have this program and those that it starts reach this computer directly, whatever proxies are set.

    Proxies of the system, which Python ignores as soon as exceptions are in the environment, are kept there as well.
    One that the HTTP library does not support, as SOCKS without a part of its own, would end the program at the import
    of Gradio: it is dropped, and only a share link could have used it.
    """
    of_system = getproxies()
    for scheme in SCHEMES:
        if scheme in of_system and not _variables(scheme):
            os.environ[f"{scheme}_proxy"] = of_system[scheme]
        for name in _variables(scheme):
            if not _is_supported(os.environ[name]):
                del os.environ[name]
    for name in _variables("no") or ["no_proxy"]:
        os.environ[name] = _with_loopback(os.environ.get(name, ""))


def _with_loopback(exceptions: str) -> str:
    names = [name for part in exceptions.split(",") if (name := part.strip())]
    if "*" in names:
        return "*"
    return ",".join([*names, *(own for own in LOOPBACK if own not in names)])


def _variables(scheme: str) -> list[str]:
    """The environment variables that name this proxy: either case counts."""
    return [name for name in os.environ if name.lower() == f"{scheme}_proxy"]


def _is_supported(address: str) -> bool:
    if not address:
        return True
    try:
        parts = urlsplit(address if "://" in address else f"http://{address}")
        is_complete = bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False
    if parts.scheme in ("socks5", "socks5h"):
        return is_complete and importlib.util.find_spec("socksio") is not None
    return is_complete and parts.scheme in ("http", "https")


os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when Gradio is imported
bypass_proxies()
