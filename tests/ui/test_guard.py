"""Attacks on the page over HTTP: all refused."""

import asyncio
import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from ed2.app.on_end import FILE_NAME, OnEnd
from ed2.events import EventBus, RunEnded
from ed2.ui.limits import DOCUMENTS_AT_ONCE, DOCUMENTS_PER_SECOND, FREE_TRIES, WAIT_SECONDS, LoginLimit
from tests.ui.conftest import Server

pytestmark = [pytest.mark.slow, pytest.mark.timeout(200)]


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=30) as client:
        yield client


@pytest.fixture
def monitor(server: Server) -> str:
    if server.context.sharing.monitor is None:  # tests that ask every handler press Stop sharing too
        server.context.sharing.start()
    return f"http://127.0.0.1:{server.context.sharing.monitor.server_port}/"


def test_the_page_answers_under_its_own_name_only(client: httpx.Client, server: Server) -> None:
    assert client.get("/").status_code == 200
    assert 'data-state=\\"connecting\\"' in client.get("/config").text
    for host in ("evil.com", f"evil.com:{server.port}", "127.0.0.1.evil.com", ""):
        assert client.get("/", headers={"Host": host}).status_code == 400


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.com"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
    ids=str,
)
def test_requests_of_other_pages_are_refused(client: httpx.Client, headers: dict[str, str]) -> None:
    body = {"data": [], "fn_index": 0, "session_hash": "x"}
    for path in ("/gradio_api/queue/join", "/gradio_api/run/predict", "/login"):
        assert client.post(path, json=body, headers=headers).status_code == 403


def test_nothing_can_be_uploaded(client: httpx.Client) -> None:
    files = {"files": ("evil.html", b"<script>alert(1)</script>", "text/html")}
    for path in ("/gradio_api/upload", "/upload"):
        assert client.post(path, files=files).status_code in (404, 405)


@pytest.mark.parametrize(
    "path", ["/etc/passwd", "../../etc/passwd", "webui.py", "file:///etc/passwd", "http://127.0.0.1/"]
)
def test_no_file_of_the_computer_is_served(client: httpx.Client, path: str) -> None:
    for way in (f"/gradio_api/file={path}", f"/file={path}", f"/gradio_api/proxy={path}", f"/static/{path}"):
        answer = client.get(way)
        assert answer.status_code >= 400 or (b"root:" not in answer.content and b"ed2.ui" not in answer.content)


def test_the_served_folder_has_no_way_out(client: httpx.Client, server: Server) -> None:
    copies = server.context.samples
    folder = copies.folder
    (folder / "link.webp").symlink_to("/etc/passwd")
    for path in ("link.webp", "../../../etc/passwd", "%2e%2e/%2e%2e/etc/passwd", ""):
        assert client.get(f"{copies.route}/{path}").status_code == 404
    assert client.get("/images-wrong/link.webp").status_code != 200 or b"root:" not in client.get("/images-x/").content
    (folder / "link.webp").unlink()


def test_the_stream_of_a_closed_page_ends_without_a_traceback(
    client: httpx.Client, caplog: pytest.LogCaptureFixture
) -> None:
    answer = client.get("/gradio_api/queue/data", params={"session_hash": "gone"})
    assert '"session_not_found":true' in answer.text
    assert not [record for record in caplog.records if record.name.startswith("uvicorn")]


def as_sent(component: dict[str, Any], nonsense: str) -> object:
    """Nonsense as text; elsewhere what the page shows, since Gradio lets nothing of another kind reach a handler."""
    return nonsense if component["type"] in ("textbox", "code") else component["props"].get("value")


def answers(client: httpx.Client, dependencies: list[dict[str, Any]], data: list[list[object]]) -> list[dict[str, Any]]:
    """What the handlers say to `data`, each asked as the page asks it: through the queue, or without."""
    told, waiting = list[dict[str, Any]](), dict[str, int]()
    for dependency, values in zip(dependencies, data, strict=True):
        body = {"data": values, "fn_index": dependency["id"], "session_hash": "nonsense", "event_data": {}}
        if dependency["queue"] is False:
            told.append(client.post("/gradio_api/run/predict", json=body).json() | {"fn": dependency["id"]})
        else:
            while (joined := client.post("/gradio_api/queue/join", json=body)).status_code == 503:
                time.sleep(0.05)  # the queue is full: this asks faster than any person
            waiting[joined.json()["event_id"]] = dependency["id"]
    with client.stream("GET", "/gradio_api/queue/data?session_hash=nonsense") as lines:
        for line in lines.iter_lines():
            event = json.loads(line.removeprefix("data:")) if line else {}
            if event.get("msg") == "process_completed":
                told.append(event["output"] | {"fn": waiting.pop(event["event_id"])})
            if not waiting:
                break
    return told


@pytest.mark.parametrize("nonsense", ["../../etc/passwd", "\0", "x" * 5000], ids=("path", "null", "long"))
def test_every_handler_answers_nonsense_with_a_message_and_starts_nothing(
    client: httpx.Client, server: Server, nonsense: str
) -> None:
    config = client.get("/config").json()
    components = {component["id"]: component for component in config["components"]}
    dependencies = [dependency for dependency in config["dependencies"] if dependency["backend_fn"]]
    assert len(dependencies) > 20
    data = [[as_sent(components[id], nonsense) for id in dependency["inputs"]] for dependency in dependencies]
    told = answers(client, dependencies, data)
    assert len(told) == len(dependencies)
    # Gradio sends the words of a refusal, and none where a handler broke
    assert not [answer["fn"] for answer in told if "error" in answer and answer["error"] is None]
    assert server.context.service.snapshot().state == "idle"
    assert not (server.folder / "logs").exists()


def test_a_file_path_sent_as_a_value_is_not_served(client: httpx.Client) -> None:
    value = {"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}}
    for fn in range(len(client.get("/config").json()["dependencies"])):
        answer = client.post(
            "/gradio_api/run/predict", json={"data": [value] * 60, "fn_index": fn, "session_hash": "f"}
        )
        assert b"root:" not in answer.content


def test_every_endpoint_is_private_and_the_documentation_is_off(client: httpx.Client) -> None:
    assert client.get("/gradio_api/info").json().get("named_endpoints", {}) == {}
    for path in ("/docs", "/redoc", "/openapi.json", "/monitoring"):
        assert client.get(path).status_code in (403, 404) or b"swagger" not in client.get(path).content.lower()


def test_the_monitor_asks_for_its_password(monitor: str, server: Server) -> None:
    with httpx.Client(base_url=monitor, timeout=30) as stranger:
        assert stranger.get("/config").status_code == 401
        body = {"data": [], "fn_index": 0, "session_hash": "x"}
        assert stranger.post("/gradio_api/run/predict", json=body).status_code == 401
        assert stranger.post("/login", data={"username": "viewer", "password": "1234"}).status_code == 400


def test_the_monitor_can_change_nothing_and_shows_no_path(monitor: str, server: Server) -> None:
    with httpx.Client(base_url=monitor, timeout=30) as viewer:
        login = {"username": "viewer", "password": server.context.sharing.password}
        assert viewer.post("/login", data=login).status_code == 200
        config = viewer.get("/config").text
        assert str(server.folder) not in config
        targets = json.loads(config)["dependencies"]
        assert len(targets) == 3  # the tick, the load, and what is asked when the curves come into view
        for fn in range(30):
            try:
                viewer.post("/gradio_api/run/predict", json={"data": ["x"] * 5, "fn_index": fn, "session_hash": "a"})
            except httpx.HTTPError:
                continue  # Gradio drops the connection for a function that does not exist
        assert server.context.service.snapshot().state == "idle"


def test_neither_page_can_set_what_is_run_at_the_end(monitor: str, client: httpx.Client, server: Server) -> None:
    secret = server.folder / "secret"
    command = f"touch {secret}"
    values = (command, json.dumps({"on_end": command}), str(server.context.user.folder / FILE_NAME))
    with httpx.Client(base_url=monitor, timeout=30) as viewer:
        login = {"username": "viewer", "password": server.context.sharing.password}
        assert viewer.post("/login", data=login).status_code == 200
        for page, sent in ((viewer, values), (client, values[1:2])):
            config = page.get("/config").json()
            assert not [part for part in config["components"] if "on_end" in json.dumps(part["props"].get("elem_id"))]
            components = {part["id"]: part for part in config["components"]}
            calls = [call for call in config["dependencies"] if call["backend_fn"]]
            for value in sent:
                data = [[as_sent(components[id], value) for id in call["inputs"]] for call in calls]
                assert len(answers(page, calls, data)) == len(calls)
    assert not (server.context.user.folder / FILE_NAME).exists()
    assert "on_end" not in server.context.form_values()
    assert "on_end" not in json.dumps(server.context.user.draft())
    assert server.context.queue.runs() == ()
    with OnEnd(folder=server.context.user.folder).following(bus := EventBus()):
        bus.emit(RunEnded(1, "done", "all epochs are done", 1.0))
    assert not secret.exists()


def test_the_monitor_shows_samples_only_after_the_login(monitor: str, client: httpx.Client, server: Server) -> None:
    address = server.context.samples.offer(server.folder / "images" / "00.png")
    with httpx.Client(base_url=monitor, timeout=30) as viewer:
        for header in ({}, {"Cookie": "access-token-unsecure-x=y"}):
            assert viewer.get(address, headers=header).status_code == 401
        login = {"username": "viewer", "password": server.context.sharing.password}
        assert viewer.post("/login", data=login).status_code == 200
        shown = viewer.get(address)
        assert (shown.status_code, shown.headers["content-type"]) == (200, "image/webp")
    assert client.get(address).status_code == 200  # the owner's page, which asks for no password here


def test_without_a_network_share_says_so(monitor: str, server: Server) -> None:
    text = server.context.sharing.as_html()
    assert "Training is not affected" in text or "gradio.live" in text
    assert server.context.sharing.password in text


def test_the_tunnel_of_gradio_is_called_with_its_signature() -> None:
    import inspect

    from gradio import networking

    assert list(inspect.signature(networking.setup_tunnel).parameters)[:3] == [
        "local_host",
        "local_port",
        "share_token",
    ]


OTHER_PAGES = ({"Origin": "http://127.0.0.1:9999"}, {"Sec-Fetch-Site": "same-site"}, {"Origin": "null"})


@pytest.mark.parametrize("path", ["/config", "/gradio_api/app_id", "/gradio_api/heartbeat/x", "/gradio_api/info"])
@pytest.mark.parametrize("headers", OTHER_PAGES, ids=str)
def test_no_other_page_can_read_anything(client: httpx.Client, path: str, headers: dict[str, str]) -> None:
    answer = client.get(path, headers=headers)
    assert answer.status_code == 403
    assert len(answer.content) < 100
    preflight = client.options(path, headers={**headers, "Access-Control-Request-Method": "GET"})
    assert preflight.status_code in (403, 405)
    assert not [name for name in (*answer.headers, *preflight.headers) if name.startswith("access-control")]


def test_the_document_may_be_linked_to_but_not_fetched_or_framed_by_other_pages(client: httpx.Client) -> None:
    linked = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Dest": "document"}
    assert client.get("/", headers=linked).status_code == 200
    assert client.get("/", headers={**linked, "Sec-Fetch-Dest": "iframe"}).status_code == 403
    assert client.get("/", headers={"Origin": "http://127.0.0.1:9999"}).status_code == 403


def test_every_answer_of_both_pages_forbids_frames_and_other_sources(client: httpx.Client, monitor: str) -> None:
    for url in ("/", "/config", "/nowhere", "/gradio_api/upload", "/theme.css", monitor, f"{monitor}config"):
        headers = client.get(url).headers
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert "default-src 'self'" in headers["content-security-policy"]
        assert headers["x-frame-options"] == "DENY"
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"


def test_a_body_over_the_limit_is_refused_by_its_length_and_while_it_is_read(client: httpx.Client) -> None:
    def endless() -> Iterator[bytes]:
        for _ in range(200):
            yield b"x" * 65536

    for body in (b"x" * 1_100_000, endless()):
        try:
            assert client.post("/gradio_api/queue/join", content=body).status_code == 413
        except httpx.HTTPError:
            continue  # the connection was closed while it was still sent
    compressed = {"Content-Encoding": "gzip"}
    assert client.post("/gradio_api/run/predict", content=b"\x1f\x8b", headers=compressed).status_code == 415


@pytest.mark.parametrize(
    "call",
    [
        {},
        [],
        "x",
        {"fn_index": 9999, "data": [], "session_hash": "x"},
        {"fn_index": "0", "data": [], "session_hash": "x"},
        {"fn_index": -1, "data": [], "session_hash": "x"},
        {"fn_index": 0, "data": [1] * 99, "session_hash": "x"},
        {"fn_index": 0, "data": [], "session_hash": "x" * 1000},
        {"fn_index": True, "data": 5, "session_hash": 0},
    ],
    ids=lambda call: str(call)[:40],
)
def test_a_call_that_no_page_makes_is_refused_in_a_word(client: httpx.Client, call: object) -> None:
    for path in ("/gradio_api/run/predict", "/gradio_api/queue/join"):
        answer = client.post(path, json=call)
        assert answer.status_code == 400
        assert len(answer.text) < 100


def test_the_monitor_takes_any_value_and_prints_none_of_it(
    monitor: str, server: Server, capfd: pytest.CaptureFixture[str]
) -> None:
    with httpx.Client(base_url=monitor, timeout=30) as viewer:
        login = {"username": "viewer", "password": server.context.sharing.password}
        assert viewer.post("/login", data=login).status_code == 200
        calls = json.loads(viewer.get("/config").text)["dependencies"]
        capfd.readouterr()
        for value in ("z" * 9000, "\x1b]0;title\x07", 1e300, -1, None, True, {"a": 1}, ["x"]):
            for call in calls:
                body = {"data": [value] * len(call["inputs"]), "fn_index": call["id"], "session_hash": "a"}
                assert viewer.post("/gradio_api/run/predict", json=body).status_code == 200
        long = {"data": ["x" * 10_001], "fn_index": calls[0]["id"], "session_hash": "a"}
        assert viewer.post("/gradio_api/run/predict", json=long).status_code == 400
        assert viewer.post("/gradio_api/run/predict", content=b"x" * 65_000).status_code == 413
    told = "".join(capfd.readouterr())
    assert "Traceback" not in told
    assert "zzz" not in told


def test_nothing_but_the_login_is_answered_before_it(monitor: str) -> None:
    with httpx.Client(base_url=monitor, timeout=30) as stranger:
        for path in (
            "gradio_api/heartbeat/x",
            "gradio_api/queue/data?session_hash=x",
            "gradio_api/app_id",
            "monitoring",
        ):
            assert stranger.get(path).status_code in (401, 404)
        for path in ("gradio_api/cancel", "gradio_api/reset", "gradio_api/queue/join"):
            assert stranger.post(path, content=b"x" * 100_000).status_code == 401


def test_only_the_page_itself_ends_a_session_and_only_its_own(monitor: str, server: Server) -> None:
    login = {"username": "viewer", "password": server.context.sharing.password}
    with httpx.Client(base_url=monitor, timeout=30) as one, httpx.Client(base_url=monitor, timeout=30) as other:
        for viewer in (one, other):
            assert viewer.post("/login", data=login).status_code == 200
        assert one.get("/logout").status_code == 405
        assert one.post("/logout", headers={"Origin": "http://evil.com"}).status_code == 403
        assert one.get("/config").status_code == 200
        assert one.post("/logout").status_code == 303
        assert one.get("/config").status_code == 401
        assert other.get("/config").status_code == 200


def test_strangers_get_the_login_some_times_a_second_and_sessions_do_not_wait(monitor: str, server: Server) -> None:
    right = {"username": "viewer", "password": server.context.sharing.password}
    with httpx.Client(base_url=monitor, timeout=30) as viewer, httpx.Client(base_url=monitor, timeout=30) as stranger:
        assert viewer.post("/login", data=right).status_code == 200
        began = time.monotonic()
        statuses = [stranger.get("/").status_code for _ in range(150)]
        most = DOCUMENTS_AT_ONCE + DOCUMENTS_PER_SECOND * (time.monotonic() - began) + 1
        assert set(statuses) == {200, 429} and statuses.count(200) <= most
        assert viewer.get("/").status_code == 200
        time.sleep(1)
        assert stranger.get("/").status_code == 200


def test_wrong_passwords_are_slowed_down_and_sessions_are_not(monitor: str, server: Server) -> None:
    right = {"username": "viewer", "password": server.context.sharing.password}
    with httpx.Client(base_url=monitor, timeout=30) as viewer, httpx.Client(base_url=monitor, timeout=30) as guessing:
        assert viewer.post("/login", data=right).status_code == 200
        began = time.monotonic()
        for number in range(8):
            wrong = {"username": "viewer", "password": f"wrong {number}"}
            assert guessing.post("/login", data=wrong).status_code == 400
        assert time.monotonic() - began > 2  # five at once, then a second each
        began = time.monotonic()
        assert viewer.get("/config").status_code == 200
        assert time.monotonic() - began < 1
        assert guessing.post("/login", data=right).status_code == 200


def test_many_passwords_at_once_are_no_way_around_the_limit(monitor: str) -> None:
    began = time.monotonic()
    with ThreadPoolExecutor(16) as pool:
        statuses = list(pool.map(lambda number: try_password(monitor, f"wrong {number}"), range(64)))
    assert 429 in statuses and set(statuses) <= {400, 429}
    assert statuses.count(400) <= FREE_TRIES + 1 + time.monotonic() - began


def test_a_password_that_waits_has_the_next_turn_however_busy_the_page_is() -> None:
    async def tried() -> tuple[list[bool], bool, bool]:
        limit = LoginLimit()
        at_once = [await limit.admit("here") for _ in range(FREE_TRIES + 1)]
        waiting = asyncio.create_task(limit.admit("here"))
        await asyncio.sleep(0)  # it begins to wait
        time.sleep(WAIT_SECONDS + 0.1)  # its turn comes while the page has no time for it
        return at_once, await limit.admit("here"), await waiting

    with ThreadPoolExecutor(1) as pool:  # Playwright's event loop runs in this thread
        at_once, next_one, waiting = pool.submit(asyncio.run, tried()).result()
    assert (at_once, next_one, waiting) == ([True] * (FREE_TRIES + 1), False, True)


def try_password(monitor: str, password: str) -> int:
    login = {"username": "viewer", "password": password}
    return httpx.post(f"{monitor}login", data=login, timeout=30, trust_env=False).status_code
