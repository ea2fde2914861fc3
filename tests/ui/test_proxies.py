"""The program reaches itself whatever proxies are set; that its page opens is tried in test_command.py."""

import json
import os
import subprocess
import sys

import pytest

from ed2.settings.files import PROGRAM_DIR

NOWHERE = "127.0.0.1:9"
PROXIES = {
    "http": {"http_proxy": f"http://{NOWHERE}", "https_proxy": f"http://{NOWHERE}"},
    "upper case": {"HTTP_PROXY": f"http://{NOWHERE}", "NO_PROXY": "example.org, .corp"},
    "socks": {"ALL_PROXY": f"socks5://{NOWHERE}"},
    "socks4 for each": {"http_proxy": f"socks4://{NOWHERE}", "https_proxy": f"socks5h://{NOWHERE}"},
    "all, no scheme": {"all_proxy": NOWHERE, "no_proxy": ""},
    "not an address": {"http_proxy": "http://proxy:port", "ALL_PROXY": "nonsense://"},
}


def environment(proxies: dict[str, str]) -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    return {**clean, **proxies}


@pytest.mark.parametrize("proxies", PROXIES.values(), ids=PROXIES)
def test_exceptions_are_added_and_what_is_not_supported_is_dropped(proxies: dict[str, str]) -> None:
    code = (
        "import json, os, ed2.ui, urllib.request as r; "
        "print(json.dumps([r.proxy_bypass(h) for h in ('127.0.0.1:1', 'localhost', '::1')] + [dict(os.environ)]))"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment(proxies), cwd=PROGRAM_DIR, capture_output=True, check=True)
    *bypassed, after = json.loads(done.stdout)
    assert all(bypassed)
    for name, value in proxies.items():
        if name.lower() == "no_proxy":
            assert after[name].startswith(value.replace(" ", ""))
        else:
            assert after.get(name) == (value if value.startswith((f"http://{NOWHERE}", NOWHERE)) else None)
