"""Puts a run together: the one place that knows every part, and that chooses device and precision."""

import importlib.metadata
import json
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path

import torch

from ed2.app.captions import caption_note, long_captions
from ed2.app.scanning import decode_threads
from ed2.app.schedule import ScheduleJob
from ed2.app.start import PICTURES_FILE, SETTINGS_FILE, Start
from ed2.app.validating import SetApart
from ed2.checkpoint.folder import remove_leftovers, write_whole
from ed2.checkpoint.job import CheckpointJob
from ed2.checkpoint.saver import Saver
from ed2.data.example import Dataset
from ed2.data.loader import Loader, LoaderOptions
from ed2.errors import Problem, SettingsError
from ed2.events import EventBus, Warned
from ed2.models.files import ModelFolder, open_folder
from ed2.models.memory import Precision, checkpoint_gradients, choose_device, choose_dtype
from ed2.models.sd import TRAINABLE, StableDiffusion, load
from ed2.registry import LOSSES, OPTIMIZERS, SCHEDULES
from ed2.settings.files import PROGRAM_DIR, write_settings
from ed2.settings.schema import OptimizerSettings, Settings
from ed2.training.jobs import EpochJob, MetricsJob
from ed2.training.losses import mse
from ed2.training.metrics import Metrics
from ed2.training.objective import Objective
from ed2.training.optimizers import Optimizers
from ed2.training.state import Controls, Run, TrainState
from ed2.training.validation import ValidationJob, Validator

PACKAGES = ("torch", "diffusers", "transformers", "safetensors", "bitsandbytes", "pillow", "numpy")


@dataclass(frozen=True)
class Machine:
    """What the run computes on."""

    device: torch.device
    dtype: torch.dtype | None

    @classmethod
    def of(cls, settings: Settings) -> "Machine":
        """Choose by the settings and what is there.

        Raises:
            SettingsError: a card is asked for that is not there.
        """
        try:
            device = choose_device(settings.run.device)
        except ValueError as error:
            raise SettingsError("1 setting is wrong:", [Problem("device", f"{error}.", "Use auto or cpu.")]) from None
        memory = settings.memory
        return cls(device, choose_dtype(device, amp=memory.amp, amp_dtype=memory.amp_dtype))

    def __str__(self) -> str:
        name = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "the CPU"
        return f"{name} in {str(self.dtype or torch.float32).removeprefix('torch.')}"


def make_run_folder(start: Start) -> Path:
    """Make the folder `<logdir>/<project>_<time>`, or take the one that the run was in."""
    if start.same_folder and start.checkpoint:
        return start.checkpoint.run_dir
    logdir = Path(start.settings.logging.logdir)
    logdir.mkdir(parents=True, exist_ok=True)
    moment = datetime.now()
    while True:
        folder = logdir / f"{start.settings.run.project_name}_{moment:%Y%m%d-%H%M%S}"
        try:
            folder.mkdir()
        except FileExistsError:  # another run began in the same second
            moment += timedelta(seconds=1)
        else:
            return folder


def describe_run(run_dir: Path, start: Start, dataset: Dataset, machine: Machine) -> None:
    """Write what the run is made of: settings.json, manifest.json, pictures.json; sweep up after a killed program."""
    (run_dir / "ckpts").mkdir(exist_ok=True)
    remove_leftovers(run_dir / "ckpts")
    write_settings(run_dir / SETTINGS_FILE, start.settings)
    names = json.dumps(sorted(example.name for example in dataset.examples), ensure_ascii=False)
    write_whole(run_dir / PICTURES_FILE, names.encode())
    if start.same_folder:
        return
    manifest = {
        "started_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": versions(),
        "device": str(machine),
        "seed": start.settings.run.seed,
        "base_model": str(start.base),
        "continues": str(start.checkpoint.path) if start.checkpoint else None,
        "dataset": {"fingerprint": dataset.fingerprint, "pictures": len(dataset.examples)},
        "notes": list(start.notes),
    }
    write_whole(run_dir / "manifest.json", (json.dumps(manifest, indent=2, ensure_ascii=False) + "\n").encode())


def versions() -> dict[str, str]:
    """Python's version and those of the packages that the result depends on."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


@dataclass(frozen=True)
class Builder:
    """Makes the parts of a run out of its start."""

    start: Start
    dataset: Dataset
    run_dir: Path
    machine: Machine
    bus: EventBus
    controls: Controls
    apart: SetApart

    def build(self) -> Run:
        """Read the model and put the run together, restored to its checkpoint if it has one.

        Raises:
            ModelError: the base model cannot be used.
            CheckpointError: the training state cannot be restored.
        """
        settings = self.start.settings
        model = self._model(open_folder(self.start.base))
        optimizers = self._optimizers(model)
        loader = self._loader()
        run = Run(
            model=model,
            data=loader,
            objective=Objective(model, LOSSES.load("mse"), settings.run.seed, self.machine.device),
            precision=Precision(self.machine.device, self.machine.dtype),
            optimizers=optimizers,
            schedule=SCHEDULES.load(settings.optimizer.lr_scheduler),
            metrics=Metrics(),
            bus=self.bus,
            jobs=[],
            controls=self.controls,
            state=TrainState(),
            max_epochs=settings.run.max_epochs,
            steps_in=cache(loader.planner.steps),
            images_per_step=settings.data.batch_size * settings.data.grad_accum,
            max_grad_norm=settings.optimizer.clip_grad_norm,
        )
        if self.start.checkpoint:
            self._restore(run)
        run.jobs += [MetricsJob(run, settings.logging.log_step), EpochJob(run)]
        if settings.data.write_schedule:
            job = ScheduleJob(self.run_dir, run, loader.planner, self.dataset.examples)
            job.run(run.state)
            run.jobs.append(job)
        return run

    def caption_notes(self, model: StableDiffusion) -> list[str]:
        """What is to be said about the length of captions."""

        def count(texts: Sequence[str]) -> list[int]:
            return [len(tokens) for tokens in model.tokenizer(list(texts), add_special_tokens=False).input_ids]

        limit = model.tokenizer.model_max_length - 2  # the marks of begin and end
        note = caption_note(long_captions(self.dataset.examples, count, limit), limit)
        return [note] if note else []

    def notes(self) -> list[str]:
        """What was chosen for the user, in sentences."""
        name = chosen_optimizer(self.start.settings.optimizer, self.machine.device)
        notes = [f"Optimizer: {name}."]
        if self.start.settings.memory.amp and self.machine.device.type == "cpu":
            notes.append("Mixed precision (amp) is off: it is for cards, and slower on a CPU.")
        return [*notes, *self.apart.notes]

    def validation_job(self, run: Run) -> list[ValidationJob]:
        """What validates, if anything is to be measured."""
        settings = self.start.settings
        if not self.apart.curves:
            return []
        validator = Validator(
            objective=Objective(run.model, mse, settings.validation.val_seed, self.machine.device),
            curves=self.apart.curves,
            options=LoaderOptions(
                seed=settings.validation.val_seed,
                batch_size=settings.validation.val_batch_size or settings.data.batch_size,
                threads=decode_threads(settings),
                jitter=False,
            ),
            autocast=run.precision.autocast,
            should_stop=lambda: self.controls.stopping,
            on_problem=self._tell,
        )
        return [ValidationJob(run, validator, self.bus, settings.validation.every_n_epochs)]

    def saver(self) -> Saver:
        """What writes this run's checkpoints."""
        settings = self.start.settings.checkpoint
        single_dir = None if settings.no_save_ckpt else Path(settings.save_ckpt_dir or PROGRAM_DIR)
        return Saver(
            run_dir=self.run_dir,
            project=self.start.settings.run.project_name,
            single_dir=single_dir,
            single_format=settings.ckpt_format,
            single_dtype=torch.float32 if settings.save_full_precision else torch.float16,
            prepend_last=not settings.no_prepend_last,
            about={
                "fingerprint": self.dataset.fingerprint,
                "seed": self.start.settings.run.seed,
                "versions": versions(),
            },
        )

    def checkpoint_job(self, run: Run, saver: Saver) -> CheckpointJob:
        """Saving by minutes and epochs."""
        settings = self.start.settings.checkpoint
        return CheckpointJob(
            saver=saver,
            training=run,
            bus=self.bus,
            minutes=settings.minutes,
            epochs=settings.save_every_n_epochs or 0,
            first_epoch=settings.save_ckpts_from_n_epochs,
        )

    def _model(self, folder: ModelFolder) -> StableDiffusion:
        settings = self.start.settings
        frozen = {"unet": settings.model.disable_unet_training, "text_encoder": settings.model.disable_textenc_training}
        trained = [name for name in TRAINABLE if not frozen[name]]
        frozen_dtype = self.machine.dtype or torch.float32
        model = load(folder, trained=trained, device=self.machine.device, frozen_dtype=frozen_dtype)
        if settings.memory.gradient_checkpointing:
            checkpoint_gradients(model.trained.values())
        return model

    def _optimizers(self, model: StableDiffusion) -> Optimizers:
        settings = self.start.settings.optimizer
        make = OPTIMIZERS.load(chosen_optimizer(settings, self.machine.device))
        lrs = {"unet": settings.unet_lr, "text_encoder": settings.te_lr}
        by_network = {name: make(network.parameters(), lrs[name]) for name, network in model.trained.items()}
        return Optimizers(by_network, {name: lrs[name] for name in by_network})

    def _loader(self) -> Loader:
        settings = self.start.settings
        options = LoaderOptions(
            seed=settings.run.seed,
            batch_size=settings.data.batch_size,
            grad_accum=settings.data.grad_accum,
            threads=decode_threads(settings),
            ahead=max(2, settings.data.grad_accum + 1),
            keep_tags=settings.data.keep_tags,
        )
        return Loader(self.dataset.examples, options, on_problem=self._tell)

    def _restore(self, run: Run) -> None:
        checkpoint = self.start.checkpoint
        assert checkpoint is not None
        run.state = checkpoint.state
        before, now = int(checkpoint.values["steps_per_epoch"]), run.steps_in(run.state.epoch)
        if run.state.position and before != now:  # other pictures or batches: the same share of the epoch is done
            run.state.position = run.state.position * now // max(1, before)
        for note in checkpoint.restore(run):
            self.bus.emit(Warned(run.state.step, note))

    def _tell(self, problem: Problem) -> None:
        self.bus.emit(Warned(0, f"A picture was left out. {problem}"))


def chosen_optimizer(settings: OptimizerSettings, device: torch.device) -> str:
    """The optimizer's name: the one set, else adamw8bit on a card and adamw on a CPU."""
    chosen = "adamw8bit" if settings.useadam8bit else settings.optimizer
    return chosen or ("adamw8bit" if device.type == "cuda" else "adamw")
