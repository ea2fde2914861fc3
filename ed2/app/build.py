"""From a `RunSpec` to a `Run`: reads the model and creates everything that a step works on."""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import nn

from ed2.app.caching.caches import CacheJob, Caches, open_caches
from ed2.app.images.scanning import decode_threads
from ed2.app.jobs import MainContext, RunContext, job_makers
from ed2.app.optimizing import build_ema, build_optimizers
from ed2.app.run_spec import Machine, RunSpec, versions
from ed2.checkpoint.resume import Checkpoint, restore_adapters
from ed2.checkpoint.snapshot import state_bytes
from ed2.data.loader import Loader
from ed2.data.pixels import LoaderOptions
from ed2.errors import RankError
from ed2.events import Warned
from ed2.models.base import DiffusionModel, ModelSource, trained_parameters
from ed2.models.compute import DTYPES, Precision, choose_attention, compile_denoiser
from ed2.models.families.facts import FACTS
from ed2.models.files.lora_base import is_lora_checkpoint
from ed2.models.lora.adapter import AdapterOptions, add_adapter
from ed2.models.memory import RoomForSizes, enable_checkpointing
from ed2.models.parts import BatchVisits
from ed2.registry import FAMILIES, LOSSES
from ed2.settings.schema import Settings
from ed2.tensor_bytes import bytes_in
from ed2.training.ema import NoEma
from ed2.training.metrics import Metrics
from ed2.training.objective import Objective, ObjectiveOptions
from ed2.training.optimizers import Optimizers
from ed2.training.recovery import restore_oom_limits
from ed2.training.shared_update import SharedFusedUpdate, SharedUpdate
from ed2.training.state import Job, Run
from ed2.training.update import FusedUpdate, Update, WholeUpdate
from ed2.vram.sampler import CardPeaks

NOISE_AT_ZERO_SNR = (
    "This model predicts noise, and at the last timestep of enable_zero_terminal_snr an image is nothing but noise, so "
    "samples get worse. Use a model that predicts v, or train it to with --prediction_type v_prediction."
)
WEIGHTLESS_LAST_TIMESTEP = (
    "min_snr_gamma gives the last timestep no weight, which defeats the purpose of enable_zero_terminal_snr."
)


def build(spec: RunSpec, context: RunContext) -> Run:
    """Read the model and put the run together, restored to its checkpoint if it has one.

    Raises:
        ModelError: the base model cannot be used.
        CheckpointError: the training state cannot be restored.
    """
    settings, device = spec.settings, spec.machine.device
    context.ranks.prepare(device)
    start = None if spec.checkpoint else Path(settings.model.resume_ckpt)
    model = read_model(settings, spec.source, spec.machine, start)
    for note in _arrange(model, spec):
        context.bus.emit(Warned(0, note))
    caches = open_caches(model, spec, context)
    loader = _loader(spec, context, caches)
    total_updates = sum(map(loader.planned_steps_in, range(settings.run.max_epochs)))
    _fit_position(spec, context, loader.steps_in(context.state.epoch))
    optimizers = build_optimizers(model, settings, device, total_updates, context.ranks)
    precision = Precision(device, spec.machine.dtype)
    run = Run(
        model=model,
        data=loader,
        objective=_objective(model, spec, caches),
        precision=precision,
        optimizers=optimizers,
        update=_update(spec, context, optimizers, precision),
        ema=build_ema(model, spec, total_steps=total_updates) if context.ranks.rank == 0 else NoEma(),
        metrics=Metrics(),
        bus=context.bus,
        controls=context.controls,
        state=context.state,
        max_epochs=settings.run.max_epochs,
        steps_in=loader.steps_in,
        images_per_step=settings.images_per_step,
        make_jobs=_job_makers(spec, context, loader, caches),
        ranks=context.ranks,
    )
    _restore(run, spec)
    require_alike(run, spec.checkpoint)
    return run


def _job_makers(spec: RunSpec, context: RunContext, loader: Loader, caches: Caches) -> list[Callable[[Run], Job]]:
    """The factories of the run's jobs; processes other than the first only fill caches."""
    makers: list[Callable[[Run], Job]] = []
    if caches.latents or caches.text:
        makers.append(lambda run: CacheJob(run, caches, spec, context))
    if isinstance(context, MainContext):
        makers += job_makers(spec, context, loader)
    return makers


def _restore(run: Run, spec: RunSpec) -> None:
    """Continue from the checkpoint if there is one. Raises CheckpointError."""
    if spec.checkpoint:
        for note in [*spec.checkpoint.restore(run), *restore_oom_limits(run, same_settings=spec.same_folder)]:
            run.bus.emit(Warned(run.state.step, note))
    run.optimizers.make_state()  # after restoring and before the first step, so that it is known to fit


def require_alike(run: Run, checkpoint: Checkpoint | None) -> None:
    """Check that all processes of a run start from the same weights and checkpoint, by the same versions.

    Raises:
        RankError: one of them differs.
    """
    if run.ranks.size == 1:
        return
    hashes = checkpoint.manifest.get("files") if checkpoint else None
    own = {"versions": versions(), "weights": _checksum(run), "checkpoint": hashes, "state_bytes": state_bytes(run)}
    said = run.ranks.exchange("start", own)
    if run.optimizers.shards.owners:
        run.optimizers.bytes_elsewhere = sum(message["state_bytes"] for message in said) - own["state_bytes"]
    whats = (("versions", "versions of packages"), ("weights", "weights to begin with"), ("checkpoint", "checkpoints"))
    for rank, message in enumerate(said):
        for what, fix in whats:
            if message[what] != said[0][what]:
                why = f"it has other {fix} than the first."
                raise RankError(f"Process {rank} cannot take part", why, "Install and copy the same on every machine.")


def _checksum(run: Run) -> str:
    """A number that differs if trained weights do, or the optimizer state that all keep, read once from the device."""
    tensors = [parameter.detach() for parameter in trained_parameters(run.model)]
    for optimizer in run.optimizers:
        for parameter, state in optimizer.state.items():
            if parameter in run.optimizers.shards.owners:
                continue
            tensors += [value for value in state.values() if isinstance(value, torch.Tensor)]
    flat = [bytes_in(tensor) for tensor in tensors]
    sums = [numbers.sum(dtype=torch.int64).cpu() for numbers in flat]
    return hashlib.blake2b(torch.stack(sums).numpy().tobytes(), digest_size=16).hexdigest()


def _update(spec: RunSpec, context: RunContext, optimizers: Optimizers, precision: Precision) -> Update:
    max_norm = spec.settings.optimizer.clip_grad_norm
    ranks, is_fused = context.ranks, spec.settings.memory.fused_backward

    def holds_gradients() -> bool:
        return context.state.at_once is not None

    if ranks.size > 1 and is_fused:
        return SharedFusedUpdate(optimizers, precision, max_norm, holds_gradients, ranks=ranks)
    if ranks.size > 1:
        return SharedUpdate(optimizers, precision, max_norm, ranks=ranks)
    if is_fused:
        return FusedUpdate(optimizers, precision, max_norm, holds_gradients)
    return WholeUpdate(optimizers, precision, max_norm)


def _fit_position(spec: RunSpec, context: RunContext, steps_in_epoch: int) -> None:
    """If images or batches differ from the checkpoint's, resume at the same fraction of the epoch."""
    if spec.checkpoint is None or not context.state.position:
        return
    before = int(spec.checkpoint.values["steps_per_epoch"])
    if before != steps_in_epoch:
        context.state.position = context.state.position * steps_in_epoch // max(1, before)


def read_model(settings: Settings, source: ModelSource, machine: Machine, start: Path | None) -> DiffusionModel:
    """Read a model for training, or to draw with it; if `start` is a checkpoint of a LoRA, its adapters too.

    Raises:
        ModelError: a part cannot be read.
    """
    visits = BatchVisits()
    model: DiffusionModel = FAMILIES.load(source.family)(
        source,
        trained=settings.model.trained_parts(FACTS[source.family]),
        device=machine.device,
        frozen_dtype=machine.frozen_dtype,
        trained_dtype=DTYPES[settings.memory.weights_dtype],
        adapt=_adapt(settings, visits),
    )
    model.visits = visits
    model.clip_skip, model.caption_chunks = settings.noise.clip_skip, settings.data.caption_chunks
    if start and is_lora_checkpoint(start):
        restore_adapters(model, start)
    if settings.memory.gradient_checkpointing:
        enable_checkpointing(model)
    return model


def _adapt(settings: Settings, visits: BatchVisits) -> Callable[[str, nn.Module], None] | None:
    """What adds the adapters of a LoRA to a network; None if the weights themselves are trained."""
    if settings.model.method != "lora":
        return None
    own = settings.lora
    options = AdapterOptions(
        own.lora_rank,
        own.alpha,
        own.lora_layers,
        settings.run.seed,
        dora=own.lora_dora,
        dropout=own.lora_dropout,
        visits=visits,
    )
    return partial(add_adapter, options=options)


def _arrange(model: DiffusionModel, spec: RunSpec) -> list[str]:
    """Choose how the networks compute; returns sentences on what is unavailable or unwise."""
    memory, device = spec.settings.memory, spec.machine.device
    notes = [choose_attention(model, memory.attn_type, device)]
    if memory.channels_last:
        model.denoiser.to(memory_format=torch.channels_last)
    if memory.torch_compile:
        notes.append(compile_denoiser(model, device))
    process = model.process
    if process.is_zero_snr and process.prediction_type == "epsilon":
        notes.append(NOISE_AT_ZERO_SNR)
    elif process.is_zero_snr and spec.settings.loss.min_snr_gamma:
        notes.append(WEIGHTLESS_LAST_TIMESTEP)
    return list(filter(None, notes))


def _objective(model: DiffusionModel, spec: RunSpec, caches: Caches) -> Objective:
    settings, device = spec.settings, spec.machine.device
    options = ObjectiveOptions(
        timestep_start=settings.loss.timestep_start,
        timestep_end=settings.loss.timestep_end,
        min_snr_gamma=settings.loss.min_snr_gamma,
        embedding_perturbation=settings.noise.embedding_perturbation,
        pyramid_discount=settings.noise.pyramid_noise_discount or 0.0,
        noise_offset=settings.noise.zero_frequency_noise_ratio,
    )
    loss = LOSSES.load(settings.loss.loss_type)
    objective = Objective(model, loss, settings.run.seed, device, options, caches.mend)
    if device.type != "cuda":
        return objective
    return replace(objective, make_room=RoomForSizes(CardPeaks(device.index or 0).fullness, torch.cuda.empty_cache))


def _loader(spec: RunSpec, context: RunContext, caches: Caches) -> Loader:
    settings = spec.settings
    threads, batch_size = decode_threads(settings, context.ranks.local_size), settings.data.batch_size
    options = LoaderOptions(
        seed=settings.run.seed,
        batch_size=batch_size,
        grad_accum=settings.batches_per_step,
        one_each=settings.memory.fused_backward,
        threads=threads,
        ahead=max(settings.batches_per_step + 1, -(-2 * threads // batch_size) * context.ranks.size),
        num_variants=settings.memory.cache_variants if caches.latents else 0,
        keep_tags=settings.data.keep_tags,
        background=settings.data.alpha_background,
        pinned=spec.machine.device.type == "cuda",
        reads=context.reads,
    )
    return Loader(
        spec.dataset.examples,
        options,
        on_problem=context.faults,
        lost=context.state.lost,
        latents=caches.latents,
        ranks=context.ranks,
    )
