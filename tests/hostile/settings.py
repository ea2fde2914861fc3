"""More than 100 settings files that are damaged, wrong or strange, each with what is expected of it."""

import json
from collections.abc import Iterator

from tests.hostile.cases import Case

GOOD = {"project_name": "cats", "max_epochs": 10, "lr": 1e-6, "data_root": ["images"], "resume_ckpt": "model"}
NO_JSON = "it is not valid JSON"
NO_OBJECT = "it contains no settings"
NO_TEXT = "cannot be read"


def all_settings() -> Iterator[Case]:
    """Every case."""
    groups = (_whole(), _broken(), _wrong_values(), _unknown_names(), _texts(), _of_the_original())
    for group in groups:
        for name, (content, expected) in group.items():
            data = content if isinstance(content, bytes) else json.dumps(content).encode()
            yield Case(f"{name}.json", data, expected)


Group = dict[str, tuple[object, str]]


def _whole() -> Group:
    good = json.dumps(GOOD).encode()
    return {
        "good": (good, ""),
        "good-with-mark": (b"\xef\xbb\xbf" + good, ""),
        "good-with-crlf": (json.dumps(GOOD, indent=1).replace("\n", "\r\n").encode(), ""),
        "good-with-about": ({**GOOD, "about": {"title": "cats"}}, ""),
        "good-with-old-folder": ({**GOOD, "data_root": "images"}, ""),
        "empty-object": (b"{}", ""),
    }


def _broken() -> Group:
    good = json.dumps(GOOD).encode()
    cut = {f"cut-{number:02d}": (good[: len(good) * number // 10], f"{NO_JSON}|empty") for number in range(10)}
    return cut | {
        "utf-16": (json.dumps(GOOD).encode("utf-16"), NO_TEXT),
        "utf-32": (json.dumps(GOOD).encode("utf-32"), NO_TEXT),
        "latin-1": ('{"project_name": "kätzchen"}'.encode("latin-1"), NO_TEXT),
        "nul": (b'{"max_epochs": 1\0}', NO_JSON),
        "only-nul": (bytes(100), NO_JSON),
        "binary": (bytes(range(256)), NO_TEXT),
        "page": (b"<!DOCTYPE html><html></html>", NO_JSON),
        "yaml": (b"max_epochs: 10\n", NO_JSON),
        "toml": (b"max_epochs = 10\n", NO_JSON),
        "comments": (b'{"max_epochs": 10 // how often\n}', NO_JSON),
        "comma-at-end": (b'{"max_epochs": 10,}', NO_JSON),
        "single-quotes": (b"{'max_epochs': 10}", NO_JSON),
        "two-objects": (b'{"max_epochs": 10}{"max_epochs": 20}', NO_JSON),
        "twice": (b'{"max_epochs": 10, "max_epochs": 20}', "duplicate keys: max_epochs"),
        "twice-inside": (b'{"about": {"a": 1, "a": 2}}', "duplicate keys: a"),
        "twice-by-escape": (b'{"lr": 1e-6, "\\u006cr": 2e-6}', "duplicate keys: lr"),
        "nan": (b'{"lr": NaN}', "NaN is not a number"),
        "infinity": (b'{"lr": Infinity}', "Infinity is not a number"),
        "minus-infinity": (b'{"lr": -Infinity}', "Infinity is not a number"),
        "too-many-digits": (b'{"max_epochs": ' + b"9" * 5000 + b"}", NO_JSON),
        "deep-lists": (b"[" * 100_000 + b"]" * 100_000, NO_JSON),
        "deep-objects": (b'{"about":' * 100_000 + b"1" + b"}" * 100_000, NO_JSON),
        "deep-value": (b'{"data_root":' + b"[" * 900 + b"]" * 900 + b"}", "data_root"),
        "deep-folder": (b'{"data_root":' + b'{"path":' * 900 + b"1" + b"}" * 901, "data_root"),
        "too-large": (b'{"comment": "' + b"x" * (2 << 20) + b'"}', "larger than 1 MB"),
        "list": (b"[1, 2]", NO_OBJECT),
        "empty-list": (b"[]", NO_OBJECT),
        "chain": ([{"max_epochs": 1}, {"max_epochs": 2}], "chain of several runs"),
        "number": (b"5", NO_OBJECT),
        "text": (b'"max_epochs"', NO_OBJECT),
        "null": (b"null", NO_OBJECT),
        "true": (b"true", NO_OBJECT),
        "about-is-text": ({"about": "cats"}, "about is not an object of texts"),
    }


def _wrong_values() -> Group:
    wrong: dict[str, list[object]] = {
        "max_epochs": ["10", 10.5, True, 0, -1, [10], {"a": 1}, None, 10**400],
        "lr": ["1e-6", True, [1], "fast", 1e999, -1.0, {}],
        "resolution": [500, "512", 0, 10**9, 512.5, None, [512]],
        "batch_size": [0, -2, 257, 1.5, "4"],
        "seed": [-2, 2**31, 1.0, "555"],
        "amp": ["true", 1, 0, "yes", [True]],
        "flip_p": [-0.1, 1.1, "0.5", [0.5]],
        "optimizer": ["adam", "", 5, ["adamw"], "os.system"],
        "loss_type": ["mse; rm -rf /", 1],
        "device": ["cuda:", "cuda:-1", "cpu\n", "meta", 0],
        "betas": [[0.9], [0.9, 1.0], [0.9, 0.99, 0.9], "0.9", [None, None]],
        "data_root": [5, [5], [], [None], {}, {"resolvers": {}}, [[["a"]]], {"a": "b"}, [{}, {}]],
        "extra_manual_datasets": [5, [5], {"a": 5}],
        "project_name": [5, "", " ", ".", "..", "../../x", "a/b", "a\\b", "a:b", ".hidden", "-x", "a\0b", "x" * 81],
        "save_ckpt_dir": [5, ["a"]],
    }
    found: Group = {}
    for name, values in wrong.items():
        for number, value in enumerate(values):
            content = json.dumps({name: value}).replace("Infinity", "1e999").encode()
            found[f"wrong-{name}-{number}"] = (content, name)
    # In a file of the original null says nothing, and a folder may be called 5.
    is_kept = ("max_epochs-7", "resolution-5", "extra_manual_datasets-2")
    return {name: (content, "" if name.removeprefix("wrong-") in is_kept else told)
            for name, (content, told) in found.items()}  # fmt: skip


def _unknown_names() -> Group:
    return {
        "unknown": ({"max_epoch": 5}, "max_epoch: there is no such setting. Did you mean max_epochs"),
        "unknown-empty": ({"": 5}, "there is no such setting"),
        "unknown-long": ({"x" * 100_000: 5}, "there is no such setting"),
        "unknown-case": ({"Max_Epochs": 5}, "there is no such setting"),
        "unknown-dunder": ({"__class__": "os.system", "__init__": 1}, "__class__"),
        "unknown-nul": ({"max\0epochs": 5}, "there is no such setting"),
        "unknown-surrogate": (b'{"\\ud800": 5}', "there is no such setting"),
        "unknown-group": ({"optimizer": {"lr": 1}}, "optimizer"),
        "unknown-many": ({f"name{number}": 1 for number in range(5000)}, "settings are wrong"),
        "all-wrong-at-once": ({"lr": "x", "max_epochs": 0, "nonsense": 1}, "(?s)nonsense.*lr|lr.*nonsense"),
        "contradiction": ({"disable_unet_training": True, "disable_textenc_training": True}, "everything is frozen"),
    }


def _texts() -> Group:
    """Names that no file system, or no other program, can take."""
    reserved = ("CON", "con", "aux.txt", "NUL.tar.gz", "COM1", "lpt9.x", "a.", "a ", "a. .", "CONIN$", "com¹")
    found: Group = {f"name-{number}": ({"project_name": name}, "project_name") for number, name in enumerate(reserved)}
    kept = ("conference", "nullable", "auxiliary.v2", "kätzchen", "猫", "a.b", "x" * 80)
    found |= {f"name-kept-{number}": ({"project_name": name}, "") for number, name in enumerate(kept)}
    for name in ("project_name", "data_root", "resume_ckpt", "logdir", "sample_prompts"):
        found[f"nul-in-{name}"] = ({name: "a\0b"}, name)
        found[f"surrogate-in-{name}"] = (json.dumps({name: "a\ud800b"}).encode(), name)
    found["home-of-nobody"] = ({"data_root": ["~nobody-at-all/images"]}, "")
    found["home-of-nobody-as-model"] = ({"resume_ckpt": "~nobody-at-all/model"}, "")
    found["long-path"] = ({"data_root": ["x" * 256]}, "data_root.*too long for a path")
    found["long-model"] = ({"resume_ckpt": "x/" * 4000}, "resume_ckpt.*too long for a path")
    found["emoji-name-too-long"] = ({"project_name": "🐈" * 70}, "project_name")
    return found


def _of_the_original() -> Group:
    return {
        "old-all": ({"wandb": True, "gpuid": 0, "disable_amp": True, "lowvram": True, "plugins": ["x.py"]}, ""),
        "old-gpu-text": ({"gpuid": "0; rm"}, "device"),
        "old-gpu-list": ({"gpuid": [0]}, "device"),
        "old-amp-text": ({"disable_amp": "yes"}, "amp"),
        "old-scale-text": ({"scale_lr": "yes", "batch_size": "2"}, "batch_size"),
        "old-scale-nan": (b'{"scale_lr": true, "lr": 1e999}', "lr"),
        "old-lowvram-text": ({"lowvram": True, "resolution": "x"}, "resolution"),
        "old-optimizer-missing": ({"optimizer_config": "not-there.json"}, "the file not-there.json does not exist"),
        "old-optimizer-odd": ({"optimizer_config": {"a": 1}}, "the file .* does not exist"),
        "old-optimizer-nul": ({"optimizer_config": "a\0b"}, "the file .* does not exist"),
        "old-optimizer-long": ({"optimizer_config": "x" * 9000}, "the file .* does not exist"),
        "old-optimizer-itself": ({"optimizer_config": "old-optimizer-itself.json"}, ""),
        "old-optimizer-broken": ({"optimizer_config": "cut-05.json"}, NO_JSON),
        "old-validation-is-a-list": ({"validation_config": "list.json"}, NO_OBJECT),
    }
