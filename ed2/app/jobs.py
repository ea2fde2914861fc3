"""The jobs and the saver of a run, made from its spec."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import torch

from ed2.app.images.captions import tag_frequency, trigger_phrase
from ed2.app.images.scanning import ImageFaults, decode_threads, for_validation, full_reads
from ed2.app.optimizing import sample_weights
from ed2.app.run_spec import RunSpec, circumstances
from ed2.app.runs.folder import image_names, recorded_settings
from ed2.checkpoint.background import BackgroundSaver, CheckpointJob
from ed2.checkpoint.export import Exporter
from ed2.checkpoint.identity import IMAGES_FILE, name_of_run
from ed2.checkpoint.resume import LEFT_OUT
from ed2.checkpoint.retention import LatestValidation
from ed2.checkpoint.saver import Saver
from ed2.curve_names import GRAD_NORM, GRAD_SCALE, IMAGES_PER_SECOND, LOSS, VRAM, lr_curve
from ed2.data.epoch import EpochPlan
from ed2.data.example import Example
from ed2.data.full_reads import FullReads
from ed2.data.loader import Loader
from ed2.data.pixels import LoaderOptions
from ed2.disk import write_whole
from ed2.events import EpochEnded, EventBus, MetricsLogged, Progressed
from ed2.models.compute import DTYPES
from ed2.models.files.description import ModelSpec
from ed2.ranks.base import Ranks
from ed2.registry import JOBS
from ed2.sampling.job import SampleJob
from ed2.sampling.prompts import PromptFile
from ed2.settings.files import PROGRAM_DIR
from ed2.settings.gather import TEXT_ENCODER_LR
from ed2.settings.schema import DEFAULT_LR, Settings
from ed2.training.controls import Controls
from ed2.training.ema import Ema
from ed2.training.measuring import SharedMeter, own_share
from ed2.training.objective import Objective, mse
from ed2.training.state import IMAGE_LOSSES, VALIDATION, Job, Run, TrainState
from ed2.training.validation import NUM_LEVELS, ImageLossJob, ImageLossMeter, Meter, ValidationJob, Validator
from ed2.vram.card import BYTES_PER_GB, Card
from ed2.vram.plan import sampling_batch


@dataclass(frozen=True, kw_only=True)
class RunContext:
    """Where a run is built: its folder, state and processes.

    Attributes:
        run_dir: its folder.
        state: its progress, which counts up while it runs.
        faults: counts and reports images that are lost or changed during the run.
        ranks: the processes that train it.
        reads: decodes its images, and remembers what that shows.
    """

    run_dir: Path
    bus: EventBus
    controls: Controls
    state: TrainState
    faults: ImageFaults
    ranks: Ranks
    reads: FullReads = field(default_factory=FullReads)


@dataclass(frozen=True, kw_only=True)
class MainContext(RunContext):
    """Where a run is built in its first process, or its only one.

    Attributes:
        saver: writes its checkpoints.
        started: when its preparation began, by the monotonic clock.
    """

    saver: BackgroundSaver
    started: float

    @classmethod
    def of(cls, spec: RunSpec, saver: BackgroundSaver, controls: Controls, ranks: Ranks, started: float) -> Self:
        """The context of a run that is about to be built."""
        state = spec.checkpoint.state if spec.checkpoint else TrainState()
        return cls(
            run_dir=saver.saver.run_dir,
            bus=saver.bus,
            controls=controls,
            state=state,
            faults=ImageFaults(saver.bus, step=lambda: state.step),
            ranks=ranks,
            reads=full_reads(),
            saver=saver,
            started=started,
        )

    @property
    def seconds(self) -> float:
        """Since its preparation began."""
        return time.monotonic() - self.started


def job_makers(spec: RunSpec, context: MainContext, loader: Loader) -> list[Callable[[Run], Job]]:
    """The factories of a run's jobs, in the order in which the jobs run after a step."""
    settings = spec.settings
    makers: list[Callable[[Run], Job]] = [lambda run: MetricsJob(run, settings.logging.log_step), EpochJob]
    if settings.data.write_schedule:
        makers.append(lambda run: ScheduleJob(context.run_dir, run, loader.plan, spec.dataset.examples))
    makers += [JOBS.load(name) for name in JOBS]
    if spec.images.curves:
        makers.append(lambda run: _validation_job(run, spec, context))
    if settings.validation.image_loss_every_n_epochs:
        makers.append(lambda run: _image_loss_job(run, spec, context))
    makers.append(lambda run: _sample_job(run, spec, context))
    makers.append(lambda run: _checkpoint_job(run, settings, context.saver))
    return makers


def make_saver(spec: RunSpec, run_dir: Path, bus: EventBus, before_save: Callable[[int], object]) -> Saver:
    """The saver of a run's checkpoints. It listens to the bus for the last validation, so make one per run."""
    settings, run_name = spec.settings.checkpoint, name_of_run(run_dir)
    exporter = exporter_of(spec.settings, run_name, [example.caption for example in spec.dataset.examples])
    validation = LatestValidation(spec.checkpoint.manifest.get("validation") if spec.checkpoint else None)
    bus.subscribe(validation)
    return Saver(
        run_dir=run_dir,
        project=spec.settings.run.project_name,
        bus=bus,
        exporter=None if settings.no_save_ckpt else exporter,
        keep_last=settings.keep_last,
        prepend_last=not settings.no_prepend_last,
        validation=validation,
        before_write=before_save,
        about={
            "fingerprint": spec.dataset.fingerprint,
            "seed": spec.settings.run.seed,
            TEXT_ENCODER_LR: spec.settings.optimizer.lr_of("text_encoder", DEFAULT_LR[spec.settings.model.method]),
            "settings": recorded_settings(spec).flat(),
            **circumstances(spec.machine),
            **({} if spec.images.left_out is None else {LEFT_OUT: spec.images.left_out}),
        },
        beside={IMAGES_FILE: image_names(spec.dataset)},
        run_name=run_name,
        lora_base=spec.lora_base.as_json() if spec.lora_base else None,
    )


def exporter_of(settings: Settings, run_name: str, captions: Sequence[str] = ()) -> Exporter:
    """What writes the single files of a run with these settings; the captions are described in their metadata."""
    own, resolution, project = settings.checkpoint, settings.data.resolution, settings.run.project_name
    return Exporter(
        folder=Path(own.save_ckpt_dir or PROGRAM_DIR),
        run_name=run_name,
        container=own.ckpt_format,
        dtype=DTYPES[own.single_file_dtype],
        about=ModelSpec(
            title=project,
            resolution=f"{resolution}x{resolution}",
            trigger_phrase=trigger_phrase(captions),
            author=own.author or "",
            license=own.license or "",
        ),
        tag_frequency=tag_frequency(captions, project) if captions else "",
    )


def validation_meter(run: Run, spec: RunSpec, context: RunContext) -> SharedMeter:
    """What measures the validation images of a run, in each of its processes."""
    validator = Validator(
        objective=Objective(run.model, mse, spec.settings.validation.val_seed, spec.machine.device),
        sets={tag: own_share(examples, context.ranks) for tag, examples in spec.images.curves.items()},
        options=_validation_options(spec, context),
        autocast=run.precision.autocast,
        should_stop=lambda: context.controls.stopping,
        on_progress=_progress(run, context, "validating"),
    )
    return _shared(VALIDATION, validator, context)


def image_loss_meter(run: Run, spec: RunSpec, context: RunContext) -> SharedMeter:
    """What measures the loss of each image of a run, in each of its processes."""
    settings = spec.settings
    start, end = settings.loss.timestep_start, settings.loss.timestep_end
    examples = for_validation([example for example in spec.dataset.examples if example.multiply > 0])
    meter = ImageLossMeter(
        objective=Objective(run.model, mse, settings.validation.val_seed, spec.machine.device),
        sets={IMAGE_LOSSES: own_share(examples, context.ranks)},
        options=_validation_options(spec, context),
        timesteps=run.model.process.spread_timesteps(NUM_LEVELS, start, end),
        autocast=run.precision.autocast,
        should_stop=lambda: context.controls.stopping,
        on_progress=_progress(run, context, "measuring image"),
    )
    return _shared(IMAGE_LOSSES, meter, context)


METERS = {VALIDATION: validation_meter, IMAGE_LOSSES: image_loss_meter}
"""What the processes of a run measure together, by the name of its job."""


def _shared(name: str, meter: Meter, context: RunContext) -> SharedMeter:
    return SharedMeter(
        name=name,
        measure=meter,
        batch_size=meter.options.batch_size,
        ranks=context.ranks,
        should_stop=meter.should_stop,
        on_problem=context.faults,
    )


def _progress(run: Run, context: RunContext, doing: str) -> Callable[[int, int], None]:
    return lambda done, total: context.bus.emit(Progressed(run.state.step, doing, done, total))


def _validation_job(run: Run, spec: RunSpec, context: RunContext) -> ValidationJob:
    wanted = spec.settings.validation
    return ValidationJob(run, validation_meter(run, spec, context), wanted.every_n_epochs, wanted.early_stop)


def _image_loss_job(run: Run, spec: RunSpec, context: RunContext) -> ImageLossJob:
    meter = image_loss_meter(run, spec, context)
    return ImageLossJob(run, meter, spec.settings.validation.image_loss_every_n_epochs)


def _validation_options(spec: RunSpec, context: RunContext) -> LoaderOptions:
    """How images are loaded to measure them: the whole image, the same each time."""
    settings = spec.settings
    return LoaderOptions(
        seed=settings.validation.val_seed,
        batch_size=settings.validation.val_batch_size or settings.data.batch_size,
        threads=decode_threads(settings),
        jitter=False,
        background=settings.data.alpha_background,
        pinned=spec.machine.device.type == "cuda",
        reads=context.reads,
    )


def _sample_job(run: Run, spec: RunSpec, context: RunContext) -> SampleJob:
    settings = spec.settings
    prompts = PromptFile(
        path=Path(settings.sampling.sample_prompts) if settings.sampling.sample_prompts else None,
        seed=settings.run.seed,
        resolution=settings.data.resolution,
        multiple=run.model.size_multiple,
        captions=tuple(example.caption for example in spec.dataset.examples if example.caption),
        trained={" ".join(one.caption.split()): one.key for one in reversed(spec.dataset.examples) if one.caption},
    )
    card = Card(kind="cuda" if spec.machine.device.type == "cuda" else "cpu")
    return SampleJob(
        model=run.model,
        prompts=prompts,
        run_dir=context.run_dir,
        bus=context.bus,
        controls=context.controls,
        is_over=lambda state: run.finished,
        sample_steps=settings.sampling.sample_steps,
        batch_size=sampling_batch(settings, spec.sizes.shape, card=card),  # samples are never the peak of a run
        autocast=run.precision.autocast,
        weights=sample_weights(run, settings),
        own_weights=int(isinstance(run.ema, Ema) and settings.ema.samples_average),
        ranks=context.ranks,
    )


def _checkpoint_job(run: Run, settings: Settings, saver: BackgroundSaver) -> CheckpointJob:
    own = settings.checkpoint
    return CheckpointJob(
        saver=saver,
        run=run,
        minutes=own.minutes,
        epochs=own.save_every_n_epochs or 0,
        first_epoch=own.save_ckpts_from_n_epochs,
        keeps_best=settings.keeps_best,
    )


@dataclass
class MetricsJob(Job):
    """Logs the curves at the first step, every `log_step` steps and at the last."""

    run: Run
    log_step: int
    name = "metrics"

    def due(self, state: TrainState) -> bool:
        """Whether this step is logged."""
        return state.step == 1 or state.step % self.log_step == 0 or self.run.finished

    def perform(self, state: TrainState) -> MetricsLogged:
        """Read the sums from the device. Values that are not finite are left off the curves."""
        run = self.run
        values = {LOSS: run.metrics.window.take()}
        values |= {lr_curve(name): lr for name, lr in run.optimizers.lrs().items()}
        if run.precision.scaler.is_enabled():
            values[GRAD_SCALE] = run.precision.scale
        values[GRAD_NORM] = float(run.metrics.grad_norm)
        values[IMAGES_PER_SECOND] = run.metrics.images_per_second()
        device = run.objective.device
        if device.type == "cuda":
            values[VRAM] = torch.cuda.max_memory_reserved(device) / BYTES_PER_GB
        return MetricsLogged(state.step, {tag: value for tag, value in values.items() if math.isfinite(value)})


@dataclass
class EpochJob(Job):
    """Reports the end of each epoch, with its mean loss."""

    run: Run
    name = "epoch"

    def due(self, state: TrainState) -> bool:
        """Whether an epoch has just ended."""
        return state.epoch_ended

    def perform(self, state: TrainState) -> EpochEnded | None:
        """Read the sum of the epoch from the device; None if all its steps were skipped."""
        metrics = self.run.metrics
        loss, minutes = metrics.epoch.take(), metrics.epoch_minutes()
        return EpochEnded(state.step, state.epoch - 1, loss, minutes) if math.isfinite(loss) else None


@dataclass
class ScheduleJob(Job):
    """Writes `ep00_batch_schedule.txt` and so on as each epoch begins."""

    run_dir: Path
    run: Run
    plan: Callable[[int], EpochPlan]
    examples: Sequence[Example]
    name = "schedule"

    def due(self, state: TrainState) -> bool:
        """Whether an epoch has ended and another follows."""
        return state.epoch_ended and not self.run.finished

    def at_start(self, state: TrainState) -> None:
        """Write the epoch that a new or resumed run begins in."""
        self.perform(state)

    def perform(self, state: TrainState) -> None:
        """Write the epoch that `state` is in."""
        lines = schedule_lines(self.plan(state.epoch), self.examples, state.step - state.position + 1)
        text = "step\tbatch\tsize\tvisit\timage\n" + "".join(f"{line}\n" for line in lines)
        write_whole(self.run_dir / f"ep{state.epoch:02d}_batch_schedule.txt", text.encode("utf-8"))


def schedule_lines(plan: EpochPlan, examples: Sequence[Example], first_step: int) -> Iterator[str]:
    """Give a line for each showing: step, batch within it, size, which showing in this epoch, and the image."""
    for step, batches in enumerate(plan, first_step):
        for number, batch in enumerate(batches, 1):
            size = f"{batch.bucket[0]}x{batch.bucket[1]}"
            for visit in batch.visits:
                yield f"{step}\t{number}\t{size}\t{visit.repeat + 1}\t{examples[visit.example].key}"
