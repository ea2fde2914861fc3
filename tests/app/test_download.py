"""Public models: offered with size and licence, downloaded after a yes, continued and compared; every failure named."""

import json
import random
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ed2.settings.files import PROGRAM_DIR
from tests.hub import COMMIT, LocalHub, download, environment, files_of, serving
from tests.launcher import hears_ctrl_c

UNET = "unet/diffusion_pytorch_model.safetensors"
SNAPSHOT = f"hub/models--owner--tiny/snapshots/{COMMIT}"
CHUNK = 10 << 20
"""What huggingface_hub writes at a time."""


@pytest.fixture
def hub(sd1: Path) -> Iterator[LocalHub]:
    """A hub with a tiny model, and beside it what training does not need."""
    rest = {
        "README.md": b"# A model",
        "unet/diffusion_pytorch_model.bin": b"x" * 99,
        "unet/diffusion_pytorch_model.non_ema.safetensors": b"x" * 99,
        "unet/diffusion_pytorch_model.fp16.safetensors": b"x" * 99,
        "unet/diffusion_flax_model.msgpack": b"x" * 99,
        "unet/model.onnx": b"x" * 99,
        "text_encoder/pytorch_model.bin": b"x" * 99,
        "safety_checker/model.safetensors": b"x" * 99,
        "feature_extractor/preprocessor_config.json": b"{}",
        "v1-5-pruned.ckpt": b"x" * 99,
    }
    with serving(LocalHub(files={**files_of(sd1), **rest})) as hub:
        yield hub


def single(hub: LocalHub, **files: int) -> None:
    """Have the hub hold only these files of random bytes, by their stem and size."""
    hub.files = {f"{stem}.safetensors": random.Random(stem).randbytes(size) for stem, size in files.items()}


def temporaries(home: Path) -> list[Path]:
    return [path for path in home.rglob("*") if ".incomplete" in path.name]


def test_a_model_is_downloaded_after_a_yes_and_holds_only_what_training_needs(
    hub: LocalHub, sd1: Path, tmp_path: Path
) -> None:
    ran = download(hub, tmp_path, "owner/tiny", answer="yes\n")
    assert ran.returncode == 0, ran.stderr
    assert re.search(r"size +2\.\d MB in 13 files\n", ran.stdout)
    assert "licence  creativeml-openrail-m (as its model card says)" in ran.stdout
    assert "Train it with: --resume_ckpt owner/tiny" in ran.stdout
    assert files_of(tmp_path / SNAPSHOT) == {name: content for name, content in files_of(sd1).items()}
    assert sorted(hub.fetched()) == sorted(files_of(sd1))
    assert (tmp_path / "hub/models--owner--tiny/refs/main").read_text() == COMMIT
    assert not temporaries(tmp_path)


@pytest.mark.parametrize("answer", ["", "\n", "no\n", "yess\n"])
def test_nothing_is_downloaded_without_a_yes(answer: str, hub: LocalHub, tmp_path: Path) -> None:
    ran = download(hub, tmp_path, "owner/tiny", answer=answer)
    assert ran.returncode == 1 and "Nothing was downloaded" in ran.stdout
    assert not hub.fetched() and not list(tmp_path.rglob("*.safetensors"))
    if not answer:
        assert "run it again with --yes" in ran.stdout


def test_a_second_download_fetches_nothing_and_a_damaged_file_again(hub: LocalHub, tmp_path: Path) -> None:
    assert download(hub, tmp_path, "owner/tiny", "--yes").returncode == 0
    hub.asked.clear()
    assert download(hub, tmp_path, "owner/tiny", "--yes").returncode == 0
    assert not hub.fetched()
    blob = (tmp_path / SNAPSHOT / UNET).resolve()
    blob.write_bytes(b"x" * blob.stat().st_size)
    assert download(hub, tmp_path, "owner/tiny", "--yes").returncode == 0
    assert hub.fetched() == [UNET]
    assert (tmp_path / SNAPSHOT / UNET).read_bytes() == hub.files[UNET]


def test_the_library_reads_what_was_downloaded(hub: LocalHub, tmp_path: Path) -> None:
    assert download(hub, tmp_path, "owner/tiny", "--yes").returncode == 0
    code = "from ed2.models.files.base_model import locate; print(locate('owner/tiny').path)"
    ran = subprocess.run(
        [sys.executable, "-c", code],
        cwd=PROGRAM_DIR,
        env=environment(tmp_path, "http://127.0.0.1:9", HF_HUB_OFFLINE="1"),
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stdout.strip() == str(tmp_path / SNAPSHOT)


def test_a_folder_gets_the_files_and_what_is_there_is_not_replaced(hub: LocalHub, sd1: Path, tmp_path: Path) -> None:
    target = tmp_path / "my model"
    assert download(hub, tmp_path / "home", "owner/tiny", str(target), "--yes").returncode == 0
    assert files_of(target) == files_of(sd1)
    (target / UNET).write_bytes(b"mine")
    ran = download(hub, tmp_path / "home", "owner/tiny", str(target), "--yes")
    assert ran.returncode == 1 and "is another file, which is not replaced" in ran.stderr
    assert (target / UNET).read_bytes() == b"mine"


@pytest.mark.parametrize("where", ["cache", "folder"])
def test_a_broken_download_continues_where_it_stopped(where: str, hub: LocalHub, tmp_path: Path) -> None:
    single(hub, model=CHUNK + (2 << 20))
    target = [str(tmp_path / "folder")] if where == "folder" else []
    hub.breaks = [CHUNK + 1000] + [0] * 9
    broken = download(hub, tmp_path / "home", "owner/tiny", *target, "--yes")
    assert broken.returncode == 1
    assert "does not answer" in broken.stderr and "run the same command again to continue" in broken.stderr
    assert not [path for path in tmp_path.rglob("*.safetensors")]
    hub.breaks, before = [], len(hub.ranges())
    again = download(hub, tmp_path / "home", "owner/tiny", *target, "--yes")
    assert again.returncode == 0, again.stderr
    assert hub.ranges()[before:] == [f"bytes={CHUNK}-"]
    place = tmp_path / "folder" if target else tmp_path / "home" / SNAPSHOT
    assert (place / "model.safetensors").read_bytes() == hub.files["model.safetensors"]
    assert not temporaries(tmp_path)


def test_a_file_with_another_content_is_removed_and_named(hub: LocalHub, tmp_path: Path) -> None:
    hub.changed[UNET] = b"x" * len(hub.files[UNET])
    ran = download(hub, tmp_path, "owner/tiny", "--yes")
    assert ran.returncode == 1
    assert f"the content of {UNET} is not what the hub says it is. It was removed." in ran.stderr
    assert not (tmp_path / SNAPSHOT / UNET).exists() and not list(tmp_path.rglob("*.incomplete"))
    hub.changed.clear()
    assert download(hub, tmp_path, "owner/tiny", "--yes").returncode == 0


def test_a_small_file_with_another_content_is_removed_too(hub: LocalHub, tmp_path: Path) -> None:
    hub.changed["unet/config.json"] = b"{" + b" " * (len(hub.files["unet/config.json"]) - 2) + b"}"
    ran = download(hub, tmp_path, "owner/tiny", "--yes")
    assert ran.returncode == 1 and "the content of unet/config.json is not" in ran.stderr


@pytest.mark.parametrize("when", ["always", "in place of a file", "of the same length"])
def test_a_login_page_of_a_network_is_recognised(when: str, hub: LocalHub, tmp_path: Path) -> None:
    page = b"<!doctype html><html>Sign in</html>"
    if when == "always":
        hub.is_portal = True
    elif when == "in place of a file":
        hub.changed[UNET] = page
    else:
        hub.changed[UNET] = page + b" " * (len(hub.files[UNET]) - len(page))
    ran = download(hub, tmp_path, "owner/tiny", "--yes")
    assert ran.returncode == 1 and "Traceback" not in ran.stderr
    assert "it may be the login page of a network" in ran.stderr
    assert not (tmp_path / SNAPSHOT / UNET).exists()
    hub.is_portal = False
    hub.changed.clear()
    assert download(hub, tmp_path, "owner/tiny", "--yes").returncode == 0


@pytest.mark.parametrize(
    ("refuses", "words"),
    [
        ((401, "GatedRepo"), "its owner asks for a login. Accept its licence at"),
        ((403, "GatedRepo"), "its owner asks for a login. Accept its licence at"),
        ((401, ""), "the hub refuses access (HTTP 401)"),
        ((403, ""), "the hub refuses access"),
        ((429, ""), "too many requests"),
        ((500, ""), "reports an error"),
    ],
)
def test_what_the_hub_refuses_is_said(refuses: tuple[int, str], words: str, hub: LocalHub, tmp_path: Path) -> None:
    hub.refuses, hub.token = refuses, "hf_right"
    ran = download(hub, tmp_path, "owner/tiny", "--yes")
    assert ran.returncode == 1 and words in ran.stderr
    assert "Traceback" not in ran.stderr


def test_a_gated_model_is_fetched_with_the_token_which_is_written_nowhere(hub: LocalHub, tmp_path: Path) -> None:
    hub.refuses, hub.token = (401, "GatedRepo"), "hf_secretsecretsecret"
    wrong = download(hub, tmp_path, "owner/tiny", "--yes", HF_TOKEN="hf_wrongwrongwrong")
    assert wrong.returncode == 1 and "has not granted your account access" in wrong.stderr
    ran = download(hub, tmp_path, "owner/tiny", "--yes", HF_TOKEN=hub.token)
    assert ran.returncode == 0, ran.stderr
    for said in (wrong, ran):
        assert "secret" not in said.stdout + said.stderr and "wrongwrong" not in said.stdout + said.stderr
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and b"hf_" in path.read_bytes()]


def test_a_token_is_not_sent_to_whom_needs_none(hub: LocalHub, tmp_path: Path) -> None:
    assert download(hub, tmp_path, "owner/tiny", "--yes", HF_TOKEN="hf_secret").returncode == 0
    assert {token for *_, token in hub.asked} == {""}


def test_without_a_network_the_address_is_named(hub: LocalHub, tmp_path: Path) -> None:
    ran = download(hub, tmp_path, "owner/tiny", "--yes", url="http://127.0.0.1:9")
    assert ran.returncode == 1 and "http://127.0.0.1:9 does not answer" in ran.stderr
    assert "Check the connection" in ran.stderr
    ran = download(hub, tmp_path, "owner/tiny", "--yes", HF_HUB_OFFLINE="1")
    assert ran.returncode == 1 and "HF_HUB_OFFLINE is set" in ran.stderr


def test_a_disk_without_room_is_said_before_anything_is_fetched(hub: LocalHub, tmp_path: Path) -> None:
    single(hub, model=100)
    hub.sizes["model.safetensors"] = 10**17
    ran = download(hub, tmp_path, "owner/tiny", "--yes")
    assert ran.returncode == 1 and re.search(r"it needs [\d.]+ GB more in .*, where .* are free", ran.stderr)
    assert not hub.fetched()


def test_a_disk_that_becomes_full_is_said_and_the_beginning_is_kept(hub: LocalHub, tmp_path: Path) -> None:
    single(hub, model=CHUNK + (2 << 20))
    ran = subprocess.run(
        [sys.executable, "-m", "ed2", "download", "owner/tiny", "--yes"],
        cwd=PROGRAM_DIR,
        env=environment(tmp_path, hub.url),
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (CHUNK + 100, CHUNK + 100)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 1 and "it cannot be written: the disk is full" in ran.stderr, ran.stderr
    assert "Free some space" in ran.stderr
    (partial,) = tmp_path.rglob("*.incomplete")
    assert partial.stat().st_size >= CHUNK
    assert download(hub, tmp_path, "owner/tiny", "--yes").returncode == 0


@pytest.mark.skipif(sys.platform == "win32", reason="signals are those of POSIX")
def test_ctrl_c_keeps_what_was_received(hub: LocalHub, tmp_path: Path) -> None:
    single(hub, model=CHUNK + (2 << 20))
    hub.stalls = True
    command = [sys.executable, "-m", "ed2", "download", "owner/tiny", "--yes"]
    output = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    known = environment(tmp_path, hub.url)
    with subprocess.Popen(command, cwd=PROGRAM_DIR, env=known, preexec_fn=hears_ctrl_c, **output) as child:
        end = time.monotonic() + 60
        while not any(path.stat().st_size >= CHUNK for path in tmp_path.rglob("*.incomplete")):
            assert time.monotonic() < end
            time.sleep(0.1)
        child.send_signal(signal.SIGINT)
        _, said = child.communicate(timeout=30)
    assert child.returncode == 130 and "Stopped. Run the same command again to continue." in said
    assert "Traceback" not in said
    hub.stalls = False
    assert download(hub, tmp_path, "owner/tiny", "--yes").returncode == 0
    assert hub.ranges() == [f"bytes={CHUNK}-"]


NAMES = [
    "tiny",
    "../etc/passwd",
    "owner/..",
    "owner/tiny/../x.safetensors",
    "owner/\x1b[31m",
    "https://x/y",
]


@pytest.mark.parametrize("name", NAMES)
def test_what_is_no_public_name_is_refused_without_asking_the_hub(name: str, hub: LocalHub, tmp_path: Path) -> None:
    ran = download(hub, tmp_path, name, "--yes")
    assert ran.returncode == 1 and "not the name of a public model" in ran.stderr
    assert "\x1b" not in ran.stderr and not [path for _, path, *_ in hub.asked if "models" in path]


LICENCES = {
    "control": ({"license": "mit\x1b[31m\n  size  1 byte"}, r"licence  mit\\x1b\[31m\\n  size  1 byte \(as"),
    "long": ({"license": "free " * 900}, r"licence  (free ){11}.*\.\.\. \(as"),
    "list": ({"license": ["mit", 5]}, r"licence  not stated \(as"),
    "number": ({"license": 7}, r"licence  not stated \(as"),
    "name": ({"license": "other", "license_name": "my-own"}, r"licence  other / my-own \(as"),
    "none": ({}, r"licence  not stated \(as"),
}


@pytest.mark.parametrize("name", LICENCES)
def test_whatever_a_model_card_says_is_one_line_of_plain_text(name: str, hub: LocalHub, tmp_path: Path) -> None:
    card, words = LICENCES[name]
    hub.about = {"cardData": card}
    ran = download(hub, tmp_path, "owner/tiny", answer="no\n")
    assert ran.returncode == 1 and re.search(words, ran.stdout), ran.stdout + ran.stderr
    assert "\x1b" not in ran.stdout


ANSWERS: dict[str, dict[str, object]] = {
    "sha": {"sha": "../../x"},
    "names": {"siblings": [{"rfilename": "../../evil.safetensors", "size": 1, "blobId": "c" * 40}]},
    "hidden": {"siblings": [{"rfilename": ".evil.safetensors", "size": 1, "blobId": "c" * 40}]},
    "hash": {"siblings": [{"rfilename": "a.safetensors", "size": 1, "blobId": "../../x"}]},
    "size": {"siblings": [{"rfilename": "a.safetensors", "size": -1, "blobId": "c" * 40}]},
    "many": {"siblings": [{"rfilename": f"{n}.txt", "size": 1, "blobId": "c" * 40} for n in range(30_000)]},
    "no list": {"siblings": 5},
    "card": {"cardData": {"ignore_metadata_errors": 1}},
}


@pytest.mark.parametrize("name", ANSWERS)
def test_hostile_answers_are_refused_and_write_nothing(name: str, hub: LocalHub, tmp_path: Path) -> None:
    hub.about = ANSWERS[name]
    ran = download(hub, tmp_path / "home", "owner/tiny", "--yes")
    assert ran.returncode == 1 and "owner/tiny cannot be downloaded" in ran.stderr, ran.stderr
    assert "Traceback" not in ran.stderr and not hub.fetched()
    assert not [path for path in tmp_path.rglob("*") if "evil" in path.name]


def test_a_repository_of_one_file_or_a_named_file_is_that_file(hub: LocalHub, tmp_path: Path) -> None:
    single(hub, one=5000)
    hub.files["one.yaml"] = b"model:\n"
    ran = download(hub, tmp_path, "owner/tiny", "--yes")
    assert ran.returncode == 0 and f"Downloaded: {tmp_path / SNAPSHOT}/one.safetensors" in ran.stdout
    assert hub.fetched() == ["one.safetensors", "one.yaml"]
    assert "It cannot be trained here:" in ran.stdout
    single(hub, one=5000, two=6000)
    ran = download(hub, tmp_path, "owner/tiny", "--yes")
    assert ran.returncode == 1 and "it holds 2 files that may be models: one.safetensors, two.safetensors" in ran.stderr
    assert "./launch.sh download owner/tiny/one.safetensors" in ran.stderr
    ran = download(hub, tmp_path, "owner/tiny/two.safetensors", "--yes")
    assert ran.returncode == 0 and (tmp_path / SNAPSHOT / "two.safetensors").is_file()
    ran = download(hub, tmp_path, "owner/tiny/three.safetensors", "--yes")
    assert ran.returncode == 1 and "has no file three.safetensors" in ran.stderr


def test_one_variant_is_chosen_for_the_whole_model(hub: LocalHub, tmp_path: Path) -> None:
    weights = {name: content for name, content in hub.files.items() if name.endswith(("model.safetensors",))}
    weights.pop("safety_checker/model.safetensors")
    hub.files = {name: content for name, content in hub.files.items() if not name.endswith((".safetensors", ".bin"))}
    hub.files |= {name.replace(".safetensors", ".fp16.safetensors"): content for name, content in weights.items()}
    hub.files |= {
        UNET: b"only this part",
        "unet/diffusion_pytorch_model.bin": b"",
    }
    assert download(hub, tmp_path, "owner/tiny", "--yes").returncode == 0
    fetched = [name for name in hub.fetched() if not name.endswith((".json", ".txt"))]
    assert sorted(fetched) == sorted(name.replace(".safetensors", ".fp16.safetensors") for name in weights)


def test_a_vae_is_downloaded_and_named_as_such(hub: LocalHub, sd1: Path, tmp_path: Path) -> None:
    hub.files = files_of(sd1 / "vae") | {"README.md": b"", "diffusion_pytorch_model.bin": b"x"}
    ran = download(hub, tmp_path, "owner/tiny", "--yes")
    assert ran.returncode == 0 and "This is a VAE. Use it with: --vae owner/tiny" in ran.stdout
    assert sorted(hub.fetched()) == ["config.json", "diffusion_pytorch_model.safetensors"]


def test_a_model_of_another_kind_is_said(hub: LocalHub, tmp_path: Path) -> None:
    hub.files = {"model_index.json": b"{}", "transformer/diffusion_pytorch_model.safetensors": b"x"}
    ran = download(hub, tmp_path, "owner/tiny", "--yes")
    assert ran.returncode == 1 and "this is not a model that can be trained here: it has no UNet" in ran.stderr
    ran = download(hub, tmp_path, "nobody/nothing", "--yes")
    assert ran.returncode == 1 and "there is no public model of that name" in ran.stderr


def test_a_run_with_a_model_that_is_not_here_names_the_command_and_asks_no_hub(
    hub: LocalHub, images: Path, tmp_path: Path
) -> None:
    words = ["--resume_ckpt", "owner/tiny", "--data_root", str(images), "--logdir", str(tmp_path / "logs")]
    ran = subprocess.run(
        [sys.executable, "train.py", *words],
        cwd=PROGRAM_DIR,
        env=environment(tmp_path, hub.url),
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 2
    assert "owner/tiny is not on this computer, and a run downloads nothing" in ran.stderr
    assert "./launch.sh download owner/tiny" in ran.stderr
    assert not hub.asked


def test_for_the_page_each_step_is_a_line_of_json(hub: LocalHub, tmp_path: Path) -> None:
    def told(*words: str) -> list[dict[str, object]]:
        command = [sys.executable, "-m", "ed2", "download", "owner/tiny", "--json", *words]
        with subprocess.Popen(
            command, cwd=PROGRAM_DIR, env=environment(tmp_path, hub.url), stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as child:
            assert child.stdout
            return [json.loads(line) for line in child.stdout]

    (offer,) = told()
    assert (offer["state"], offer["licence"]) == ("offered", "creativeml-openrail-m")
    assert not hub.fetched()
    *progress, last = told("--yes")
    assert progress[-1]["done"] == progress[-1]["total"]
    assert (last["state"], last["path"]) == ("done", str(tmp_path / SNAPSHOT))


@pytest.mark.parametrize("words", [[], ["a/b", "c", "d"], ["a/b", "--no-such-flag"]])
def test_a_wrong_command_line_is_said(words: list[str], hub: LocalHub, tmp_path: Path) -> None:
    ran = download(hub, tmp_path, *words)
    assert ran.returncode == (2 if words else 0)
    assert "./launch.sh download NAME [TARGET]" in ran.stdout + ran.stderr or "no such flag" in ran.stderr
