"""Puts a run together: the one place that knows every part, and that chooses device and precision."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch

from ed2.app.averaging import build_ema
from ed2.app.images.captions import find_long_captions, long_caption_note
from ed2.app.images.faults import ImageFaults
from ed2.app.images.scanning import decode_threads
from ed2.app.images.validating import ValidationSplit
from ed2.app.optimizing import build_optimizers, network_plans, optimizer_notes
from ed2.app.runs.folder import Machine, circumstances, image_names, recorded_settings
from ed2.app.schedule import ScheduleJob
from ed2.app.start import Start
from ed2.checkpoint.background import BackgroundSaver, CheckpointJob
from ed2.checkpoint.export import Exporter
from ed2.checkpoint.identity import IMAGES_FILE, name_of_run
from ed2.checkpoint.retention import LatestValidation
from ed2.checkpoint.saver import Saver
from ed2.data.epoch import EpochPlanner
from ed2.data.example import Dataset
from ed2.data.loader import Loader, LoaderOptions
from ed2.data.report import batch_notes
from ed2.events import EventBus, Progressed, Warned
from ed2.models.base import DiffusionModel, ModelSource
from ed2.models.compute import Precision, choose_attention, compile_denoiser
from ed2.models.files.source import open_base
from ed2.models.memory import enable_checkpointing
from ed2.registry import FAMILIES, JOBS, LOSSES
from ed2.settings.files import PROGRAM_DIR
from ed2.settings.schema import Settings
from ed2.training.jobs import EpochJob, MetricsJob
from ed2.training.losses import mse
from ed2.training.metrics import Metrics
from ed2.training.objective import NoiseOptions, Objective, ObjectiveOptions
from ed2.training.recovery import restore_oom_limits
from ed2.training.state import Controls, Run, TrainState
from ed2.training.update import Whole
from ed2.training.validation import ValidationJob, Validator

NOISE_AT_ZERO_SNR = (
    "This model predicts noise, which says nothing about an image of which nothing is left: with "
    "enable_zero_terminal_snr its samples suffer. Use a model that predicts v, or teach it to with "
    "--prediction_type v_prediction."
)


def open_model(start: Start) -> ModelSource:
    """Look at the base model without reading its weights.

    Raises:
        ModelError: it cannot be trained.
    """
    return open_base(start.base, _scheduler_changes(start.settings))


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
    apart: ValidationSplit
    faults: ImageFaults
    before_save: Callable[[int], object] = lambda step: None

    def build(self) -> Run:
        """Read the model and put the run together, restored to its checkpoint if it has one.

        Raises:
            ModelError: the base model cannot be used.
            CheckpointError: the training state cannot be restored.
        """
        settings = self.start.settings
        model = self._model(open_model(self.start))
        loader = self._loader()
        total_updates = sum(map(loader.planner.steps, range(settings.run.max_epochs)))
        plans = network_plans(settings, self.machine.device)
        optimizers = build_optimizers(model, settings, plans, total_updates)
        precision = Precision(self.machine.device, self.machine.dtype)
        run = Run(
            model=model,
            data=loader,
            objective=self._objective(model),
            precision=precision,
            optimizers=optimizers,
            update=Whole(optimizers, precision, settings.optimizer.clip_grad_norm),
            ema=build_ema(model, self.start, self.machine.device, total_steps=total_updates),
            metrics=Metrics(),
            bus=self.bus,
            jobs=[],
            controls=self.controls,
            state=TrainState(),
            max_epochs=settings.run.max_epochs,
            steps_in=cache(loader.planner.steps),
            images_per_step=settings.data.batch_size * settings.data.grad_accum,
        )
        if self.start.checkpoint:
            self._restore(run)
        optimizers.make_state()
        self.faults.step = lambda: run.state.step
        run.jobs += [MetricsJob(run, settings.logging.log_step), EpochJob(run)]
        if settings.data.write_schedule:
            job = ScheduleJob(self.run_dir, run, loader.planner, self.dataset.examples)
            job.run(run.state)
            run.jobs.append(job)
        run.jobs += [JOBS.load(name)(run) for name in JOBS]
        return run

    def caption_notes(self, model: DiffusionModel) -> list[str]:
        """What is to be said about the length of captions."""
        too_long = find_long_captions(self.dataset.examples, model.count_tokens, model.max_tokens)
        note = long_caption_note(too_long, model.max_tokens)
        return [note] if note else []

    def notes(self) -> list[str]:
        """What was chosen for the user, in sentences."""
        notes = optimizer_notes(network_plans(self.start.settings, self.machine.device))
        if self.start.settings.memory.amp and self.machine.device.type == "cpu":
            notes.append("Mixed precision (amp) is off: it is for cards, and slower on a CPU.")
        data, seed = self.start.settings.data, self.start.settings.run.seed
        examples = self.dataset.examples
        planner = EpochPlanner(examples, seed=seed, batch_size=data.batch_size, grad_accum=data.grad_accum)
        return [*notes, *self.apart.notes, *batch_notes(planner)]

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
                background=settings.data.alpha_background,
            ),
            autocast=run.precision.autocast,
            should_stop=lambda: self.controls.stopping,
            on_problem=self.faults,
            on_progress=lambda measured, total: self.bus.emit(
                Progressed(run.state.step, "validating", measured, total)
            ),
        )
        return [ValidationJob(run, validator, self.bus, settings.validation.every_n_epochs)]

    def saver(self) -> Saver:
        """What writes this run's checkpoints."""
        settings, run_name = self.start.settings.checkpoint, name_of_run(self.run_dir)
        exporter = Exporter(
            folder=Path(settings.save_ckpt_dir or PROGRAM_DIR),
            run_name=run_name,
            container=settings.ckpt_format,
            dtype=torch.float32 if settings.save_full_precision else torch.float16,
        )
        before = self.start.checkpoint.manifest.get("validation") if self.start.checkpoint else None
        validation = LatestValidation(before)
        self.bus.subscribe(validation)
        return Saver(
            run_dir=self.run_dir,
            project=self.start.settings.run.project_name,
            bus=self.bus,
            exporter=None if settings.no_save_ckpt else exporter,
            keep_last=settings.keep_last,
            prepend_last=not settings.no_prepend_last,
            validation=validation,
            before=self.before_save,
            about={
                "fingerprint": self.dataset.fingerprint,
                "seed": self.start.settings.run.seed,
                "settings": recorded_settings(self.start).flat(),
                **circumstances(self.machine),
            },
            beside={IMAGES_FILE: image_names(self.dataset)},
            run_name=run_name,
        )

    def checkpoint_job(self, run: Run, saver: BackgroundSaver) -> CheckpointJob:
        """Saving by minutes and epochs."""
        settings = self.start.settings.checkpoint
        return CheckpointJob(
            saver=saver,
            training=run,
            minutes=settings.minutes,
            epochs=settings.save_every_n_epochs or 0,
            first_epoch=settings.save_ckpts_from_n_epochs,
        )

    def _model(self, source: ModelSource) -> DiffusionModel:
        settings = self.start.settings
        model: DiffusionModel = FAMILIES.load(source.family)(
            source,
            trained=settings.model.trained_parts,
            device=self.machine.device,
            frozen_dtype=self.machine.dtype or torch.float32,
        )
        model.clip_skip = settings.noise.clip_skip
        if settings.memory.gradient_checkpointing:
            enable_checkpointing(model)
        self._arrange(model)
        return model

    def _arrange(self, model: DiffusionModel) -> None:
        """Choose how the networks compute, and say what cannot be had."""
        memory, device = self.start.settings.memory, self.machine.device
        notes = [choose_attention(model, memory.attn_type, device)]
        if memory.channels_last:
            model.denoiser.to(memory_format=torch.channels_last)
        if memory.torch_compile:
            notes.append(compile_denoiser(model, device))
        process = model.process
        if process.is_zero_snr and process.prediction_type == "epsilon":
            notes.append(NOISE_AT_ZERO_SNR)
        if process.is_zero_snr and self.start.settings.loss.min_snr_gamma and process.prediction_type != "epsilon":
            notes.append(
                "min_snr_gamma leaves the last timestep without weight, which enable_zero_terminal_snr is for."
            )
        for note in filter(None, notes):
            self.bus.emit(Warned(0, note))

    def _objective(self, model: DiffusionModel) -> Objective:
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

    def _loader(self) -> Loader:
        settings = self.start.settings
        options = LoaderOptions(
            seed=settings.run.seed,
            batch_size=settings.data.batch_size,
            grad_accum=settings.data.grad_accum,
            threads=decode_threads(settings),
            ahead=max(settings.data.grad_accum + 1, -(-2 * decode_threads(settings) // settings.data.batch_size)),
            keep_tags=settings.data.keep_tags,
            background=settings.data.alpha_background,
        )
        return Loader(self.dataset.examples, options, on_problem=self.faults)

    def _restore(self, run: Run) -> None:
        checkpoint = self.start.checkpoint
        assert checkpoint is not None
        run.state = checkpoint.state
        before, now = int(checkpoint.values["steps_per_epoch"]), run.steps_in(run.state.epoch)
        if run.state.position and before != now:  # other images or batches: the same share of the epoch is done
            run.state.position = run.state.position * now // max(1, before)
        for note in [*checkpoint.restore(run), *restore_oom_limits(run, same_settings=self.start.same_folder)]:
            self.bus.emit(Warned(run.state.step, note))
