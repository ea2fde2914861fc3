"""Puts a run together: the one place that knows every part, and that chooses device and precision."""

import importlib.metadata
import json
import platform
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import torch

from ed2.app.averaging import build_ema
from ed2.app.optimizing import build_optimizers, network_plans, optimizer_notes
from ed2.app.scanning import decode_threads
from ed2.app.start import PICTURES_FILE, SETTINGS_FILE, Start
from ed2.checkpoint.folder import remove_leftovers, write_whole
from ed2.checkpoint.job import CheckpointJob
from ed2.checkpoint.saver import Saver
from ed2.data.epoch import steps_per_epoch
from ed2.data.example import Dataset
from ed2.data.loader import Loader, LoaderOptions
from ed2.errors import Problem, SettingsError
from ed2.events import EventBus, Warned
from ed2.models.attention import choose_attention, compile_unet
from ed2.models.base import ModelSource
from ed2.models.choose import open_base
from ed2.models.memory import Precision, checkpoint_gradients, choose_device, choose_dtype
from ed2.models.sd import TRAINABLE, StableDiffusion, load
from ed2.registry import JOBS, LOSSES
from ed2.settings.files import PROGRAM_DIR, write_settings
from ed2.settings.schema import Settings
from ed2.training.jobs import EpochJob, MetricsJob
from ed2.training.metrics import Metrics
from ed2.training.noise import NoiseOptions
from ed2.training.objective import Objective, ObjectiveOptions
from ed2.training.state import Controls, Run, TrainState

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


NOISE_AT_ZERO_SNR = (
    "This model predicts noise, which says nothing about a picture of which nothing is left: with "
    "enable_zero_terminal_snr its samples suffer. Use a model that predicts v, or teach it to with "
    "--prediction_type v_prediction."
)


def _scheduler_changes(settings: Settings) -> dict[str, Any]:
    """What the settings change about the model's scheduler, and its checkpoints will say."""
    changes: dict[str, Any] = {}
    if settings.noise.enable_zero_terminal_snr:
        changes |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    if settings.model.prediction_type:
        changes["prediction_type"] = settings.model.prediction_type
    return changes


@dataclass(frozen=True)
class Builder:
    """Makes the parts of a run out of its start."""

    start: Start
    dataset: Dataset
    run_dir: Path
    machine: Machine
    bus: EventBus
    controls: Controls

    def build(self) -> Run:
        """Read the model and put the run together, restored to its checkpoint if it has one.

        Raises:
            ModelError: the base model cannot be used.
            CheckpointError: the training state cannot be restored.
        """
        settings = self.start.settings
        model = self._model(open_base(self.start.base, _scheduler_changes(settings)))
        steps = self._steps_per_epoch()
        plans = network_plans(settings, self.machine.device)
        optimizers = build_optimizers(model, settings, plans, settings.run.max_epochs * steps)
        run = Run(
            model=model,
            data=self._loader(),
            objective=self._objective(model),
            precision=Precision(self.machine.device, self.machine.dtype),
            optimizers=optimizers,
            ema=build_ema(model, self.start, self.machine.device, total_steps=settings.run.max_epochs * steps),
            metrics=Metrics(),
            bus=self.bus,
            jobs=[],
            controls=self.controls,
            state=TrainState(),
            max_epochs=settings.run.max_epochs,
            steps_per_epoch=steps,
            images_per_step=settings.data.batch_size * settings.data.grad_accum,
            max_grad_norm=settings.optimizer.clip_grad_norm,
        )
        if self.start.checkpoint:
            self._restore(run)
        run.jobs += [MetricsJob(run, settings.logging.log_step), EpochJob(run)]
        run.jobs += [JOBS.load(name)(run) for name in JOBS]
        return run

    def notes(self) -> list[str]:
        """What was chosen for the user, in sentences."""
        notes = optimizer_notes(network_plans(self.start.settings, self.machine.device))
        if self.start.settings.memory.amp and self.machine.device.type == "cpu":
            notes.append("Mixed precision (amp) is off: it is for cards, and slower on a CPU.")
        return notes

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

    def _model(self, folder: ModelSource) -> StableDiffusion:
        settings = self.start.settings
        frozen = {"unet": settings.model.disable_unet_training, "text_encoder": settings.model.disable_textenc_training}
        trained = [name for name in TRAINABLE if not frozen[name]]
        frozen_dtype = self.machine.dtype or torch.float32
        model = load(folder, trained=trained, device=self.machine.device, frozen_dtype=frozen_dtype)
        model.clip_skip = settings.noise.clip_skip
        if settings.memory.gradient_checkpointing:
            checkpoint_gradients({"unet": model.unet, **model.trained}.values())
        self._arrange(model)
        return model

    def _arrange(self, model: StableDiffusion) -> None:
        """Choose how the networks compute, and say what cannot be had."""
        memory, device = self.start.settings.memory, self.machine.device
        notes = [choose_attention(model.unet, model.vae, memory.attn_type, device)]
        if memory.channels_last:
            model.unet.to(memory_format=torch.channels_last)
        if memory.torch_compile:
            notes.append(compile_unet(model.unet, device))
        schedule = model.noise_schedule
        if schedule.is_zero_snr and schedule.prediction_type == "epsilon":
            notes.append(NOISE_AT_ZERO_SNR)
        if schedule.is_zero_snr and self.start.settings.loss.min_snr_gamma and schedule.prediction_type != "epsilon":
            notes.append(
                "min_snr_gamma leaves the last timestep without weight, which enable_zero_terminal_snr is for."
            )
        for note in filter(None, notes):
            self.bus.emit(Warned(0, note))

    def _objective(self, model: StableDiffusion) -> Objective:
        settings = self.start.settings
        options = ObjectiveOptions(
            timestep_start=settings.loss.timestep_start,
            timestep_end=settings.loss.timestep_end,
            min_snr_gamma=settings.loss.min_snr_gamma,
            embedding_perturbation=settings.noise.embedding_perturbation,
            noise=NoiseOptions(settings.noise.pyramid_noise_discount or 0.0, settings.noise.zero_frequency_noise_ratio),
        )
        loss = LOSSES.load(settings.loss.loss_type)
        return Objective(model, loss, settings.run.seed, self.machine.device, options)

    def _steps_per_epoch(self) -> int:
        settings = self.start.settings
        return steps_per_epoch(
            self.dataset.examples,
            seed=settings.run.seed,
            epoch=0,
            batch_size=settings.data.batch_size,
            grad_accum=settings.data.grad_accum,
        )

    def _loader(self) -> Loader:
        settings = self.start.settings
        options = LoaderOptions(
            seed=settings.run.seed,
            batch_size=settings.data.batch_size,
            grad_accum=settings.data.grad_accum,
            threads=decode_threads(settings),
            ahead=max(2, settings.data.grad_accum + 1),
        )
        return Loader(self.dataset.examples, options, on_problem=self._tell)

    def _restore(self, run: Run) -> None:
        checkpoint = self.start.checkpoint
        assert checkpoint is not None
        run.state = checkpoint.state
        before = int(checkpoint.values["steps_per_epoch"])
        if before != run.steps_per_epoch:  # other pictures or batches: the same share of the epoch is done
            run.state.position = run.state.position * run.steps_per_epoch // before
        for note in checkpoint.restore(run):
            self.bus.emit(Warned(run.state.step, note))

    def _tell(self, problem: Problem) -> None:
        self.bus.emit(Warned(0, f"A picture was left out. {problem}"))
