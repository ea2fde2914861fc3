"""Runs that are killed with -9 at random moments until they are done, and compared with one that was left alone."""

import json
import random
import shutil
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ed2.app.resume_test.comparison import differences
from tests.torture.forked import DifferentError, Ended, run_in_two, run_once, start

Values = dict[str, object]

OPTIONS: Mapping[str, Values] = {
    "accumulation": {"grad_accum": 2},
    "ema": {"ema_decay_rate": 0.9, "ema_update_interval": 2},
    "validation": {"val_split_mode": "automatic", "auto_split_proportion": 0.25, "every_n_epochs": 0.5},
    "sampling": {"sample_steps": 5},
    "8-bit": {"useadam8bit": True},
    "threads": {"decode_threads": 3},
    "chunks": {"caption_chunks": 2},
    "lora": {"method": "lora", "lora_layers": "all", "lora_dora": True, "lora_dropout": 0.2},
    "cached": {"cache_latents": True, "cache_variants": 2, "cache_text": True, "disable_textenc_training": True},
    "low-memory": {"weights_dtype": "bf16", "fused_backward": True},
}
"""What a run may be tried with, each alone or with others."""
EXCLUDED_BY_LOW_MEMORY = "accumulation"
COMMON: Values = {
    "project_name": "tiny",
    "resolution": 64,
    "batch_size": 2,
    "max_epochs": 3,
    "seed": 7,
    "lr": 1e-3,
    "lr_scheduler": "cosine",
    "flip_p": 0.5,
    "log_step": 3,
    "sample_steps": 1000,
    "decode_threads": 1,
    "ckpt_every_n_minutes": 0.005,
}
PROMPTS = {"cfgs": [1, 4], "num_inference_steps": 4, "samples": [{"prompt": "a cat"}, {"prompt": "a dog"}]}
LONGEST_LIFE = 0.4
"""The latest moment of a kill, as a share of the time of a run that is left alone."""
PATIENCE = 1.1
"""How much later the latest moment comes after a kill before which nothing was saved, or no run would ever end."""


@dataclass
class Torture:
    """Kills the runs of a tiny model.

    Attributes:
        folder: everything is written here.
        model: the base model.
        images: the folder of images.
        tell: gets a line now and then.
        processes: how many train a run, 1 or 2; the first of them is killed.
    """

    folder: Path
    model: Path
    images: Path
    seed: int = 0
    tell: Callable[[str], object] = print
    processes: int = 1
    kills: int = 0
    runs: int = 0
    when: Counter[str] = field(default_factory=Counter)
    _straight: dict[tuple[str, ...], tuple[Path, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)

    def until(self, kills: int, options: tuple[str, ...] | None = None) -> None:
        """Kill so many times, with these options or with others for each run.

        Raises:
            DifferentError: the end was not the same, or steps that were saved were lost.
        """
        while self.kills < kills:
            chosen = options if options is not None else self._random_options()
            self._one_run(chosen, most=kills - self.kills)
            self.tell(f"{self.kills} kills, {self.runs} runs the same; the last with {', '.join(chosen) or 'nothing'}")

    def summary(self) -> str:
        """What was done, in a line."""
        parts = ", ".join(f"{count} while {doing}" for doing, count in self.when.most_common())
        return f"seed {self.seed}: {self.kills} kills ({parts}), {self.runs} runs ended, all byte-identical"

    def _random_options(self) -> tuple[str, ...]:
        chosen = [option for option in OPTIONS if self._random.random() < 0.5]
        if "low-memory" in chosen and EXCLUDED_BY_LOW_MEMORY in chosen:
            chosen.remove(EXCLUDED_BY_LOW_MEMORY)
        return tuple(chosen)

    def _one_run(self, options: tuple[str, ...], most: int) -> None:
        straight, seconds = self._uninterrupted(options)
        folder = self.folder / "killed"
        shutil.rmtree(folder, ignore_errors=True)
        preset = self._preset(folder, options)
        saved, left, life = 0, most, LONGEST_LIFE
        while True:
            after = self._random.uniform(0, seconds * life) if left else None
            ended = self._start(preset, after)
            if ended.began_at is not None and ended.began_at < saved:
                raise DifferentError(f"went on from step {ended.began_at}, but step {saved} was saved: {folder}")
            life = LONGEST_LIFE if ended.saved_at > saved else life * PATIENCE
            saved = max(saved, ended.saved_at)
            if not ended.is_killed:
                break
            left, self.kills = left - 1, self.kills + 1
            self.when[ended.doing] += 1
        if found := differences(straight, newest_run(folder)) + self._files(straight.parents[1], folder):
            raise DifferentError(f"{', '.join(options)}, seed {self.seed}, {folder}:\n  " + "\n  ".join(found))
        self.runs += 1

    def _uninterrupted(self, options: tuple[str, ...]) -> tuple[Path, float]:
        """The folder of a run that was left alone, made once for these options, and how long it took."""
        if options not in self._straight:
            folder = self.folder / ("straight-" + "-".join(options))
            ended = self._start(self._preset(folder, options), None)
            self._straight[options] = newest_run(folder), ended.seconds
        return self._straight[options]

    def _start(self, preset: Path, kill_after: float | None) -> Ended:
        work = run_in_two if self.processes == 2 else run_once
        return start(preset, preset.parent / "log.txt", kill_after, work)

    def _preset(self, folder: Path, options: tuple[str, ...]) -> Path:
        folder.mkdir(parents=True)
        if "sampling" in options:
            (folder / "prompts.json").write_text(json.dumps(PROMPTS))
        places = {"logdir": folder / "logs", "save_ckpt_dir": folder / "files", "resume_ckpt": self.model}
        places["cache_dir"] = folder / "cache"
        values = COMMON | {name: str(path) for name, path in places.items()}
        values |= {"data_root": [str(self.images)], "sample_prompts": str(folder / "prompts.json")}
        for option in options:
            values |= OPTIONS[option]
        (folder / "preset.json").write_text(json.dumps(values))
        return folder / "preset.json"

    def _files(self, one: Path, other: Path) -> list[str]:
        """The single files of the last step that are missing or differ; only one has a run's name in its header."""
        last = max((path.name for path in (one / "files").glob("last-*")), default="none")
        stems = {last.rpartition(".")[0].removesuffix("_ema")}
        names = [path.name for path in (one / "files").iterdir() if any(path.name.startswith(stem) for stem in stems)]
        return [f"files/{name}" for name in names if not _same_tensors(one / "files" / name, other / "files" / name)]


def _same_tensors(one: Path, other: Path) -> bool:
    from safetensors.torch import load_file

    if not other.is_file():
        return False
    a, b = load_file(one), load_file(other)
    return a.keys() == b.keys() and all(a[name].numpy().tobytes() == b[name].numpy().tobytes() for name in a)


def newest_run(folder: Path) -> Path:
    """The run of a folder that began last."""
    return max((path for path in (folder / "logs").iterdir() if path.is_dir()), key=lambda path: path.name)
