"""One run in several processes on this machine, which add up by gloo."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ed2.app.reporters.image_losses import IMAGE_LOSSES_FILE
from ed2.events import CheckpointSaved, MetricsLogged, RunEnded, RunStarted, ValidationDone, Warned
from ed2.sampling.images import SAMPLES_LIST
from ed2.settings.files import PROGRAM_DIR
from ed2.small_files import read_object
from tests.ranked import Ranked, Warm, environment, finished, pid_of, read_until, start, warm_program
from tests.runs import Values, differing, weights
from tests.tiny import make_images, make_model

pytestmark = pytest.mark.slow

SIZES = [(64, 64), (96, 64), (64, 96), (64, 64), (128, 64)]


@pytest.fixture(scope="module")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Warm]:
    with warm_program(tmp_path_factory.mktemp("warm")) as program:
        yield program


@pytest.fixture(scope="module")
def common(tmp_path_factory: pytest.TempPathFactory) -> Values:
    """Twenty-three images in four buckets: a step has batches of several shapes, and the last one few."""
    folder = tmp_path_factory.mktemp("several")
    return {
        "project_name": "tiny",
        "data_root": [str(make_images(folder / "images", (SIZES * 5)[:23]))],
        "resume_ckpt": str(make_model(folder / "sd1")),
        "resolution": 64,
        "batch_size": 2,
        "max_epochs": 2,
        "lr": 1e-3,
        "log_step": 1,
        "no_save_ckpt": True,
        "cond_dropout": 0.3,
        "write_schedule": True,
        "sample_prompts": str(folder / "none.txt"),
        "logdir": str(folder / "logs"),
    }


@pytest.fixture
def values(common: Values, tmp_path: Path) -> Values:
    return {**common, "logdir": str(tmp_path / "logs")}


@pytest.fixture(scope="module")
def two(warm: Warm, common: Values) -> Ranked:
    """Two epochs of seven steps, in two processes."""
    run = warm.train(2, {**common, "save_every_n_epochs": 1})
    assert run.codes == (0, 0), run.output
    return run


def epoch_1_of(run: Ranked) -> Path:
    """The checkpoint after its first epoch."""
    [checkpoint] = (run.run_dir / "ckpts").glob("tiny-ep00-*")
    return checkpoint


def trained_weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    """The weights that are trained, by names that do not depend on the version of transformers."""
    found = {name.replace("/text_model.", "/"): tensor.double() for name, tensor in weights(checkpoint).items()}
    return {name: tensor for name, tensor in found.items() if not name.startswith(("training_state", "vae"))}


def apart(one: Path, other: Path, base: object) -> float:
    """How far the weights of two checkpoints are apart, relative to how far training has moved them."""
    first, second, before = map(trained_weights, (one, other, Path(str(base))))
    between = sum(((first[name] - second[name]) ** 2).sum() for name in first)
    moved = sum(((first[name] - before[name]) ** 2).sum() for name in first)
    return float((between / moved).sqrt())


def images_of_steps(run_dir: Path) -> list[str]:
    return [file.read_text() for file in sorted(run_dir.glob("ep*_batch_schedule.txt"))]


def require_like(several: Ranked, one: Ranked, base: object) -> None:
    """Hold a run in several processes to one that accumulates: the same images, losses and gradients, and weights."""
    assert several.code == 0, several.output
    assert images_of_steps(several.run_dir) == images_of_steps(one.run_dir) != []
    ours, theirs = several.of(MetricsLogged), one.of(MetricsLogged)
    assert len(ours) == len(theirs) >= 12
    for curve in ("loss/log_step", "optimizer/grad_norm"):
        assert ours[0].values[curve] == pytest.approx(theirs[0].values[curve], rel=1e-5)
    assert apart(one.checkpoint, several.checkpoint, base) < 1e-3


def test_two_processes_train_what_one_does_with_accumulation(two: Ranked, warm: Warm, values: Values) -> None:
    require_like(two, warm.train(1, {**values, "grad_accum": 2}), values["resume_ckpt"])
    [started] = two.of(RunStarted)
    assert started.config["num_processes"] == 2
    assert "Training in 2 processes: 4 images per step" in " ".join(started.notes)


def test_three_processes_train_what_one_does_with_accumulation(warm: Warm, values: Values, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.json"
    samples = [{"prompt": f"a cat {number}", "size": [64, 64]} for number in range(4)]
    prompts.write_text(json.dumps({"cfgs": [1, 4], "num_inference_steps": 2, "batch_size": 1, "samples": samples}))
    validated = {"val_split_mode": "automatic", "auto_split_proportion": 0.2}
    averaged = {
        "ema_decay_rate": 0.9,
        "ema_update_interval": 2,
        "ema_sample_nonema_model": True,
        "ema_sample_ema_model": True,
    }
    measured = {"image_loss_every_n_epochs": 4}
    values = {
        **values,
        **validated,
        **averaged,
        **measured,
        "max_epochs": 4,
        "shuffle_tags": True,
        "sample_prompts": str(prompts),
    }
    several = warm.train(3, values)
    assert several.codes == (0, 0, 0), several.output
    one = warm.train(1, {**values, "grad_accum": 3, "logdir": str(tmp_path / "one")})
    require_like(several, one, values["resume_ckpt"])
    assert apart(one.average, several.average, values["resume_ckpt"]) < 1e-3
    require_measured_alike(several, one)


def require_measured_alike(several: Ranked, one: Ranked) -> None:
    """Hold the validation and the samples of a run in several processes to those of one process."""
    ours, theirs = several.of(ValidationDone), one.of(ValidationDone)
    assert [event.step for event in ours] == [event.step for event in theirs]
    assert ours[0].values == pytest.approx(theirs[0].values, rel=1e-5)
    assert ours[-1].values == pytest.approx(theirs[-1].values, rel=1e-3)
    require_same_images_measured(several, one)
    lists = [(run.run_dir / SAMPLES_LIST).read_text() for run in (several, one)]
    assert lists[0] == lists[1]
    folders = [sorted((run.run_dir / "samples").glob("gs*/*.png")) for run in (several, one)]
    assert len(folders[0]) == 2 * 2 * 4 * 2  # times, weights, prompts, CFG values
    for mine, its in zip(*folders, strict=True):
        pair = [np.asarray(Image.open(file)).astype(int) for file in (mine, its)]
        assert abs(pair[0] - pair[1]).max() <= (0 if "gs00000" in str(mine) else 3), mine
    said = [event.text for event in several.of(Warned)]
    assert not [text for text in said if "amples of step" in text]


def require_same_images_measured(several: Ranked, one: Ranked) -> None:
    """Hold the loss of each image to that of one process, before training and after it."""
    ours, theirs = (
        [json.loads(line) for line in (run.run_dir / IMAGE_LOSSES_FILE).read_text().splitlines()]
        for run in (several, one)
    )
    assert ours[0] == theirs[0] and len(ours) == len(theirs) == 3
    assert [line["step"] for line in ours[1:]] == [line["step"] for line in theirs[1:]]
    assert ours[1]["losses"] == pytest.approx(theirs[1]["losses"], rel=1e-4)  # written with five digits
    assert ours[2]["losses"] == pytest.approx(theirs[2]["losses"], rel=1e-2)


def test_shared_out_optimizer_state_changes_no_byte(two: Ranked, warm: Warm, values: Values) -> None:
    """Of weights and state, nor of the files that a checkpoint consists of."""
    whole = warm.train(2, {**values, "max_epochs": 1}, {0: "unsharded", 1: "unsharded"})
    assert whole.codes == (0, 0), whole.output
    assert not differing(epoch_1_of(two), whole.checkpoint)
    states = [read_object(path / "training_state" / "state.json") for path in (epoch_1_of(two), whole.checkpoint)]
    assert states[0]["optimizers"] == states[1]["optimizers"]
    assert states[0].keys() == states[1].keys()


def test_updates_in_the_backward_pass_change_no_byte(warm: Warm, values: Values) -> None:
    """Without clipping, in small sums: a process without a batch, and a failed update, are in it too."""
    values = {**values, "max_epochs": 1, "clip_grad_norm": None}
    whole = warm.train(2, values)
    fused = warm.train(2, {**values, "fused_backward": True}, {0: "often", 1: "often tensor"})
    assert whole.codes == fused.codes == (0, 0), fused.output
    assert "Training again from step 0" in fused.output
    assert not differing(whole.checkpoint, fused.checkpoint)


def test_an_update_that_fails_in_one_process_at_the_end_of_the_backward_pass_keeps_none_waiting(
    warm: Warm, values: Values
) -> None:
    run = warm.train(2, {**values, "max_epochs": 1, "fused_backward": True}, {1: "tensor"})
    assert run.codes == (0, 0), run.output
    assert "Training again from step 0" in run.output


@pytest.mark.soak
@pytest.mark.parametrize("fault", ["memory", "error", "kill", "nan"])
def test_faults_of_one_process_during_updates_in_the_backward_pass(warm: Warm, values: Values, fault: str) -> None:
    half = {"weights_dtype": "bf16", "amp": True, "optimizer": "adafactor"}
    values = {**values, **half, "max_epochs": 1, "fused_backward": True}
    run = warm.train(3, values, {0: "often", 1: f"often {fault}", 2: "often"})
    [last] = run.of(RunEnded)
    assert last.phase == ("failed" if fault in ("error", "kill") else "done"), run.output
    assert run.checkpoint.is_dir()


def test_a_stopped_run_resumes_to_the_same_bytes(two: Ranked, warm: Warm, values: Values) -> None:
    process = start({**values, "max_epochs": 1}, 2)
    said = read_until(process, "Step 3/")
    process.send_signal(signal.SIGTERM)
    stopped = finished(process, values["logdir"], said)
    assert stopped.code == 143, stopped.output
    assert stopped.of(RunEnded)[-1].phase == "stopped"
    assert stopped.output.count("Training tiny:") == 1  # only the first process prints
    resumed = warm.train(2, {"resume_ckpt": str(stopped.checkpoint), "logdir": values["logdir"]})
    assert resumed.codes == (0, 0) and resumed.run_dir == stopped.run_dir, resumed.output
    assert not differing(epoch_1_of(two), resumed.checkpoint)


def test_another_number_of_processes_continues_and_says_that_it_is_not_exact(
    two: Ranked, warm: Warm, values: Values
) -> None:
    command = {"resume_ckpt": str(two.checkpoint), "logdir": values["logdir"], "max_epochs": 3}
    three = warm.train(3, command)
    assert three.code == 0, three.output
    assert "not be bit-identical: num_processes 2 -> 3" in three.output
    one = warm.train(1, command)
    assert one.of(RunEnded)[-1].phase == "done", one.output


def test_all_processes_end_when_the_first_is_killed(warm: Warm, values: Values) -> None:
    assert warm.train(2, values, {0: "kill"}).codes == (-signal.SIGKILL, 1)


def test_one_process_out_of_memory_makes_all_retry_alike(two: Ranked, warm: Warm, values: Values) -> None:
    short = warm.train(2, {**values, "max_epochs": 1}, {1: "memory"})
    assert short.codes == (0, 0), short.output
    warned = [event.text for event in short.of(Warned)]
    assert sum("Retrying with gradient checkpointing" in text for text in warned) == 1
    assert sum("Retrying with 1 image at a time" in text for text in warned) == 1
    assert apart(epoch_1_of(two), short.checkpoint, values["resume_ckpt"]) < 1e-3


def test_numbers_that_are_not_finite_in_one_process_skip_the_step_of_all(warm: Warm, values: Values) -> None:
    run = warm.train(2, {**values, "max_epochs": 1}, {1: "nan"})
    assert run.codes == (0, 0), run.output
    [skipped] = [event.text for event in run.of(Warned) if "was skipped" in event.text]
    assert skipped.startswith("Step 3 was skipped: the loss of ")


@pytest.mark.parametrize("rank", [0, 1])
def test_an_error_in_one_process_ends_the_run_and_is_reported(warm: Warm, values: Values, rank: int) -> None:
    run = warm.train(2, values, {rank: "error"})
    [last] = run.of(RunEnded)
    assert run.codes == (1, 0) and last.phase == "failed" and "something is broken" in last.reason, run.output
    assert last.checkpoint and "errored-" in last.checkpoint.name  # the weights of two whole steps


def test_a_failed_update_in_one_process_takes_all_back_to_the_last_checkpoint(
    two: Ranked, warm: Warm, values: Values
) -> None:
    run = warm.train(2, {**values, "max_epochs": 1}, {1: "update"})
    require_retried(run, two)


@pytest.mark.soak
def test_a_failed_update_in_the_first_process_does_too(two: Ranked, warm: Warm, values: Values) -> None:
    run = warm.train(2, {**values, "max_epochs": 1}, {0: "update"})
    require_retried(run, two)


def require_retried(run: Ranked, straight: Ranked) -> None:
    assert run.codes == (0, 0), run.output
    assert "Training again from step 0" in run.output
    assert not differing(epoch_1_of(straight), run.checkpoint)


def test_a_process_that_dies_in_a_step_is_named_and_the_weights_before_it_are_saved(warm: Warm, values: Values) -> None:
    run = warm.train(3, values, {1: "kill"})
    [last] = run.of(RunEnded)
    assert run.codes == (1, -signal.SIGKILL, 0) and "process 1 was lost" in last.reason, run.output
    assert [event.step for event in run.of(CheckpointSaved)] == [2]
    resumed = warm.train(1, {"resume_ckpt": str(run.checkpoint), "logdir": values["logdir"], "max_epochs": 1})
    assert resumed.of(RunEnded)[-1].phase == "done"
    assert "A process of this run was lost, and with it part of the optimizer state" in resumed.output


@pytest.mark.soak
def test_the_launcher_names_a_killed_process_and_ends_all_when_the_first_is_killed(values: Values) -> None:
    process = start({**values, "max_epochs": 1000, "save_every_n_epochs": 1}, 3)
    said = read_until(process, "saved")
    os.kill(pid_of(process.pid, 2), signal.SIGKILL)
    ended = finished(process, values["logdir"], said)
    assert ended.code == 1, ended.output
    [last] = ended.of(RunEnded)
    assert last.phase == "failed" and "process 2 was lost" in last.reason
    assert "Process 2 has ended (signal 9)." in ended.output
    assert last.checkpoint and last.checkpoint.is_dir()

    process = start({**values, "max_epochs": 1000}, 2)
    said = read_until(process, "Step 3/")
    other = pid_of(process.pid, 1)
    os.kill(pid_of(process.pid, 0), signal.SIGKILL)
    assert finished(process, values["logdir"], said).code == 128 + signal.SIGKILL
    with pytest.raises(ProcessLookupError):
        os.kill(other, 0)


@pytest.mark.soak
def test_the_speed_of_several_processes_is_measured() -> None:
    command = [sys.executable, str(PROGRAM_DIR / "scripts" / "rank_plan.py"), "--speed", "--epochs", "2"]
    measured = subprocess.run(command, env=environment(), capture_output=True, text=True, check=True).stdout
    rows = [row.split() for row in measured.splitlines()[1:]]
    assert [row[0] for row in rows] == ["1", "2"]
    assert all(float(row[1]) > 0 and int(row[3]) > 0 for row in rows)


@pytest.mark.soak
@pytest.mark.parametrize(
    ("launcher", "size"),
    [
        (("torch.distributed.run", "--standalone", "--nproc_per_node", "2"), 2),
        (("accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"), 2),
        (("accelerate.commands.launch", "--cpu", "--num_processes", "2"), 1),  # it starts one, and says nothing
    ],
    ids=["torchrun", "accelerate", "accelerate on CPUs"],
)
def test_other_launchers_start_a_run(values: Values, launcher: tuple[str, ...], size: int) -> None:
    config = Path(str(values["logdir"])).parent / "settings.json"
    config.write_text(json.dumps({**values, "max_epochs": 1}))
    ran = subprocess.run(
        [sys.executable, "-m", *launcher, "train.py", "--config", str(config)],
        cwd=PROGRAM_DIR,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert ("Training in 2 processes: 4 images per step" in ran.stdout) == (size == 2)
    assert ("accelerate has started one process" in ran.stdout) == (size == 1)


def test_loras_of_sdxl_and_caches_filled_in_shares(warm: Warm, values: Values, tmp_path: Path) -> None:
    require_cached_like(warm, values, tmp_path, "sdxl", {"method": "lora", "lora_dropout": 0.2})


@pytest.mark.soak
def test_other_families_and_caches_filled_in_shares(warm: Warm, values: Values, tmp_path: Path) -> None:
    require_cached_like(warm, values, tmp_path, "sd2", {})


def require_cached_like(warm: Warm, values: Values, folder: Path, family: str, own: Values) -> None:
    """Hold a run with caches in two processes to one that accumulates."""
    own = {
        **own,
        "resume_ckpt": str(make_model(folder / family, family=family)),
        "cache_latents": True,
        "cache_variants": 2,
        "cache_text": True,
        "cache_dir": str(folder / "cache"),
        "disable_textenc_training": True,
        "max_epochs": 1,
    }
    several = warm.train(2, {**values, **own})
    assert several.codes == (0, 0), several.output
    assert len(list((folder / "cache").glob("latents-*/*.safetensors"))) >= 2
    one = warm.train(1, {**values, **own, "grad_accum": 2, "logdir": str(folder / "one")})
    ours, theirs = several.of(MetricsLogged), one.of(MetricsLogged)
    for curve in ("loss/log_step", "optimizer/grad_norm"):
        assert ours[0].values[curve] == pytest.approx(theirs[0].values[curve], rel=1e-5)
