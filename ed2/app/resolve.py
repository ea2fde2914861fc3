"""From flags, preset and the settings of a resumed run to a `RunSpec`: everything decided before building."""

import secrets
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from ed2.app.checks.space import require_cache_room, require_room
from ed2.app.checks.start_checks import ON_COMMAND_LINE, not_here, require_base
from ed2.app.images.scanning import (
    TRAINING,
    LeftOut,
    TimeLeft,
    ValidationSplit,
    scan_dataset,
    scan_to_start,
    split_off_validation,
)
from ed2.app.local_models import converted
from ed2.app.preflight import ModelSizes, model_sizes, require_parts, require_writable
from ed2.app.resuming import REPORT_SECONDS, VerifyProgress, resolve_resume
from ed2.app.run_settings import (
    FIND_LAST,
    EffectiveSettings,
    Origin,
    checkpoint_at,
    effective_settings,
    newest_run_without_checkpoint,
    no_checkpoint_advice,
    restart_advice,
    saved_settings,
)
from ed2.app.run_spec import Machine, RunSpec, circumstances, open_model
from ed2.checkpoint.folder import ByteProgress, no_progress
from ed2.checkpoint.identity import run_at, state_of
from ed2.checkpoint.resume import LEFT_OUT, Checkpoint, newest_below, newest_of_run, require_sound
from ed2.data.reading import Outline
from ed2.errors import CheckpointError, ModelError, Problem, SettingsError
from ed2.events import CheckpointChosen, EventBus, PhaseChanged
from ed2.models.base import ModelSource
from ed2.models.families.facts import FACTS, VAE
from ed2.models.files.base_model import PUBLIC_NAME, locate, needs_conversion
from ed2.models.files.folder_problems import SCHEDULER_CONFIG
from ed2.models.files.header import is_pickle
from ed2.models.files.lora_base import LoraBase, content_hash, is_lora_checkpoint, require_base_hash
from ed2.models.process import DiffusionProcess
from ed2.ranks.base import Ranks
from ed2.settings.checks import nothing_trained, wrong_settings
from ed2.settings.effect import without_effect
from ed2.settings.files import with_defaults
from ed2.settings.schema import Settings
from ed2.terminal import LAUNCHER
from ed2.training.controls import Controls


def resolve(
    flags: Mapping[str, object], config: Path | None, *, bus: EventBus, controls: Controls, ranks: Ranks | None = None
) -> RunSpec:
    """Decide what the run will be: its settings, model, images, machine, and whether it resumes another.

    The arguments are those of `run_training`.

    Raises:
        Ed2Error: the run cannot start.
        StopRequested: a stop was requested.
    """
    progress = VerifyProgress(bus, controls)
    found = resolve_settings(flags, config, progress, progress.say)
    settings = found.settings
    checkpoint = Checkpoint.open(found.checkpoint) if found.checkpoint else None
    if checkpoint:
        bus.emit(CheckpointChosen(checkpoint.state.step, checkpoint.run_dir))
    sizes = model_sizes(settings)
    _require_trainable(settings, sizes)
    machine = Machine.of(settings, ranks)
    source = open_model(settings, found.base, found.vae)
    lora_base = _lora_base(settings, source, progress.say)
    images = _read_images(settings, bus, controls, _left_out(checkpoint))
    require_cache_room(settings, sizes, images.training.examples)
    resume = resolve_resume(checkpoint, settings, images.training, circumstances(machine))
    return RunSpec(
        settings=settings,
        base=found.base,
        vae=found.vae,
        source=source,
        sizes=sizes,
        machine=machine,
        images=images,
        checkpoint=resume.checkpoint,
        same_folder=resume.same_folder,
        needs_finishing=resume.needs_finishing,
        lora_base=lora_base,
        notes=(*found.notes, *without_effect(settings, FACTS[sizes.family]), *resume.notes),
    )


def _require_trainable(settings: Settings, sizes: ModelSizes) -> None:
    """Raise SettingsError if a package or a place to write is missing, or nothing of the model would be trained."""
    require_parts(settings)
    require_writable(settings)
    require_room(settings, sizes)
    if problems := nothing_trained(settings, FACTS[sizes.family]):
        raise wrong_settings(problems)


def _lora_base(settings: Settings, source: ModelSource, say: Callable[[str], object]) -> LoraBase | None:
    """The record of the base model for the checkpoints of a LoRA; None if none is trained.

    Raises:
        ModelError: a LoRA is to be trained as a whole model, or its base model has changed.
    """
    path = Path(settings.model.resume_ckpt)
    if settings.model.method != "lora":
        if is_lora_checkpoint(path):
            what = f"{path.name} is a LoRA, which has no weights of its own."
            fix = f"Set method to lora, or merge it with its base first: {LAUNCHER} merge BASE LORA TARGET"
            raise ModelError("The base model cannot be used:", [Problem("resume_ckpt", what, fix)])
        return None
    say(f"hashing {source.path.name}, so that the LoRA can recognise its base model")
    found = content_hash(source.path)
    if is_lora_checkpoint(path):
        require_base_hash(path, source.path, found)
        _require_same_shape(settings, LoraBase.read(path))
    unet = source.config("unet/config.json")
    return LoraBase(
        path=str(source.path.absolute()),
        sha256=found,
        family=source.family,
        prediction_type=DiffusionProcess.from_config(source.config(SCHEDULER_CONFIG)).prediction_type,
        rank=settings.lora.lora_rank,
        alpha=settings.lora.alpha,
        layers=settings.lora.lora_layers,
        layers_per_block=unet["layers_per_block"],
        attention_levels=tuple("CrossAttn" in block for block in unet["down_block_types"]),
        dora=settings.lora.lora_dora,
    )


def _require_same_shape(settings: Settings, before: LoraBase) -> None:
    """Raise SettingsError unless a LoRA that is continued keeps its rank, alpha, layers and kind."""
    own = settings.lora
    values = (
        ("lora_rank", before.rank, own.lora_rank),
        ("lora_alpha", before.alpha, own.alpha),
        ("lora_layers", before.layers, own.lora_layers),
        ("lora_dora", before.dora, own.lora_dora),
    )
    problems = [
        Problem(
            name, f"the LoRA has {then}, not {now}; it cannot change.", f"Set {name} to {then}, or start a new LoRA."
        )
        for name, then, now in values
        if then != now
    ]
    if problems:
        raise SettingsError("This LoRA cannot be continued:", problems)


def resolve_settings(
    flags: Mapping[str, object],
    config: Path | None,
    progress: ByteProgress = no_progress,
    say: Callable[[str], object] = lambda text: None,
) -> EffectiveSettings:
    """The effective settings of a run that is about to start, its seed drawn, its checkpoint verified.

    A base model in PyTorch's own format is converted, unless it was before. `progress` is called while the bytes of a
    checkpoint are compared, `say` with what else takes long.

    Raises:
        SettingsError: wrong settings, or no model is named.
        CheckpointError: the checkpoint is damaged.
        ModelError: the base model cannot be converted.
    """

    def find_sound(given: Mapping[str, object], preset_base: str) -> Origin:
        origin = _find_sound_origin(given, preset_base, progress)
        require_base({**given, "resume_ckpt": origin.name})
        if not needs_conversion(Path(origin.name)):
            return origin
        weights, note = converted(Path(origin.name), progress, say)
        return Origin(str(weights), None, (*origin.notes, note))

    found = effective_settings(flags, config, find_sound)
    settings = found.settings
    if settings.run.seed < 0:
        settings = settings.replaced(seed=secrets.randbelow(2**31))
    before = saved_settings(state_of(found.checkpoint)).get(VAE) if found.checkpoint else None
    if not settings.model.vae or settings.model.vae == before:  # a checkpoint holds the VAE that its run was given
        return EffectiveSettings(settings, found.checkpoint, found.notes)
    vae, note = _readable_vae(settings.model.vae, progress, say)
    settings = settings.replaced(vae=str(vae))
    notes = (*found.notes, *([note] if note else []))
    return EffectiveSettings(settings, found.checkpoint, notes, None if str(vae) == before else vae)


def _readable_vae(name: str, progress: ByteProgress, say: Callable[[str], object]) -> tuple[Path, str]:
    """The file or folder of a VAE, converted if it is in PyTorch's own format, and a note for the user.

    Raises:
        ModelError: it is missing, or cannot be converted.
    """
    place = locate(name)
    if place is None:
        raise ModelError("The VAE cannot be used:", [not_here(VAE, "VAE", name)])
    if not is_pickle(place.path):
        return place.path, place.note
    return converted(place.path, progress, say)


def _find_sound_origin(given: Mapping[str, object], preset_base: str, progress: ByteProgress) -> Origin:
    """What a run starts from, every byte of a checkpoint compared.

    Raises:
        SettingsError: no model is named, or it is not on this disk.
        CheckpointError: the checkpoint is damaged.
    """
    notes: list[str] = []
    if given.get("resume_ckpt") == FIND_LAST:
        last, notes = _find_last(with_defaults(given), preset_base, progress)
        if last:
            return Origin(str(last), last, tuple(notes))
        given = {**given, "resume_ckpt": preset_base}
    settings = with_defaults(given)
    if not settings.model.resume_ckpt:
        problem = Problem("resume_ckpt", "no model to start from.", ON_COMMAND_LINE.model)
        raise SettingsError("1 setting is missing:", [problem])
    path, more = _find_sound_base(settings, progress)
    if not settings.model.weights_only:
        Checkpoint.open(path)  # raises if it is from another version
    return Origin(str(path), checkpoint_at(path), (*notes, *more))


def _find_last(settings: Settings, preset_base: str, progress: ByteProgress) -> tuple[Path | None, list[str]]:
    """The newest sound checkpoint, or None if the preset's base model is used instead; and notes for the user."""
    logdir = Path(settings.logging.logdir)
    found, begun = newest_below(logdir, progress), newest_run_without_checkpoint(logdir)
    unsaved = [no_checkpoint_advice(begun)] if begun else []
    if last := found.checkpoint:
        note = f"The newest checkpoint is {last.path.name} in {last.run_dir.name}."
        return last.path, [*found.notes, note, *unsaved]
    if preset_base and preset_base != FIND_LAST:
        return None, [*found.notes, f"No checkpoint was found in {logdir}: a new run from {preset_base}."]
    fix = unsaved[0] if unsaved else "Give the path of a model, or the folder of your runs as --logdir."
    problems = [Problem("resume_ckpt", f"no checkpoint in {logdir}.", fix), *(Problem(None, n) for n in found.notes)]
    raise SettingsError("There is nothing to continue:", problems)


def _find_sound_base(settings: Settings, progress: ByteProgress) -> tuple[Path, list[str]]:
    """The model to start from, or the newest sound checkpoint if a run is named; and notes for the user."""
    name = settings.model.resume_ckpt
    place = locate(name)
    if place is None:
        error = SettingsError if PUBLIC_NAME.fullmatch(name) else ModelError
        raise error("The base model is missing:", [not_here("resume_ckpt", "model", name)])
    path, notes = place.path, [place.note] if place.note else []
    run_dir = run_at(path)
    if run_dir is None:
        require_sound(path, with_state=not settings.model.weights_only, progress=progress)
        return path, notes
    found = newest_of_run(run_dir, progress)
    if found.checkpoint:
        return found.checkpoint.path, list(found.notes)
    if found.notes:
        why = " ".join(found.notes)
        raise CheckpointError(f"The run {run_dir.name} has no checkpoint to continue", why, "Choose another run.")
    what, why = f"The run {run_dir.name} cannot be continued", "it ended before its first checkpoint."
    raise CheckpointError(what, why, restart_advice(run_dir))


def _left_out(checkpoint: Checkpoint | None) -> LeftOut | None:
    """The files that a resumed run leaves out, none for a new run; None if it began with a full read of all images."""
    if checkpoint is None:
        return {}
    left_out: LeftOut | None = checkpoint.values.get(LEFT_OUT)
    return left_out


def _read_images(settings: Settings, bus: EventBus, controls: Controls, left_out: LeftOut | None) -> ValidationSplit:
    """Read the headers of the images and choose those to validate on; reports the progress every few seconds.

    Where `left_out` is None, as in runs of earlier versions, images that are not remembered are read in full.
    """
    bus.emit(PhaseChanged(0, "preparing", "reading the images"))
    reported_at, time_left = time.monotonic(), TimeLeft()

    def report(done: int, total: int) -> None:
        nonlocal reported_at
        text = time_left.images(done, total)
        if text and time.monotonic() - reported_at > REPORT_SECONDS:
            reported_at = time.monotonic()
            bus.emit(PhaseChanged(0, "preparing", text))

    def outline(found: Outline) -> None:
        bus.emit(PhaseChanged(0, "preparing", str(found)))

    def stopping() -> bool:
        controls.raise_if_stopping()  # with the signal that requested it
        return False

    if left_out is None:
        dataset = scan_dataset(settings, progress=report, should_stop=stopping, on_outline=outline)
    else:
        dataset = scan_to_start(settings, left_out.get(TRAINING), progress=report, should_stop=stopping)
    images = split_off_validation(settings, dataset, should_stop=stopping, left_out=left_out)
    controls.raise_if_stopping()
    return images
