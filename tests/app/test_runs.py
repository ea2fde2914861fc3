"""Whole runs on a tiny model: what is written, what is said, and that going on is exact."""

import json
import shutil
import signal
from collections.abc import Sequence
from pathlib import Path

import pytest
from PIL import Image
from safetensors import safe_open
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ed2.app.reporters.log import describe_end
from ed2.data.loader import Batch
from ed2.errors import DatasetError, ModelError, SettingsError
from ed2.events import CheckpointSaved, MetricsLogged, RunStarted, SamplesMade, StepDone
from ed2.training.state import Run
from tests.runs import Trained, Values, differing, said, train, weights


def lines_of(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def scalars(run_dir: Path) -> dict[str, list[int]]:
    accumulator = EventAccumulator(str(run_dir), size_guidance={"images": 0})
    accumulator.Reload()
    return {tag: [e.step for e in accumulator.Scalars(tag)] for tag in accumulator.Tags()["scalars"]}


def test_a_run_writes_the_files_of_the_contract(values: Values, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.json"
    drawn = [{"prompt": "a cat"}, {"prompt": "a dog"}]
    prompts.write_text(json.dumps({"num_inference_steps": 4, "samples": drawn}))
    trained = train({**values, "sample_prompts": str(prompts), "sample_steps": 6, "max_epochs": 2})
    assert trained.ended.phase == "done"
    steps = trained.ended.step
    name = f"last-tiny-ep01-gs{steps:05d}"
    assert trained.checkpoint == trained.run_dir / "ckpts" / name
    assert trained.ended.single_file == tmp_path / "files" / f"{name}.safetensors"
    assert trained.run_dir.parent == tmp_path / "logs"
    assert trained.run_dir.name.startswith("tiny_20")
    files = {path.name for path in trained.run_dir.iterdir() if path.is_file()}
    assert {"settings.json", "manifest.json", "run.log", "events.jsonl", "samples.jsonl"} <= files
    made = [(event.step, len(event.samples)) for event in trained.of(SamplesMade)]
    assert made == [(0, 2), *((step, 2) for step in range(6, steps, 6)), (steps, 2)]
    tags = scalars(trained.run_dir)
    assert tags["loss/log_step"] == [1, *range(4, steps, 4), steps]
    assert tags["loss/epoch"] == [steps // 2, steps]
    assert {"hyperparameter/lr unet", "hyperparameter/lr text encoder", "optimizer/grad_norm"} <= tags.keys()
    assert {"performance/images per second", "performance/minutes per epoch"} <= tags.keys()
    with Image.open(trained.run_dir / "samples" / "contact_sheet.png") as sheet:
        assert sheet.width > 300
    assert not list(tmp_path.rglob(".tmp*"))


def test_the_checkpoint_is_a_diffusers_folder_that_the_pipeline_loads(values: Values) -> None:
    from diffusers import StableDiffusionPipeline

    trained = train({**values, "max_epochs": 1})
    pipeline = StableDiffusionPipeline.from_pretrained(trained.checkpoint, local_files_only=True)
    loaded = pipeline.unet.state_dict()
    saved = {n.removeprefix("unet/diffusion_pytorch_model/"): t for n, t in weights(trained.checkpoint).items()}
    assert all(bool((loaded[name] == saved[name]).all()) for name in loaded)
    text = {n.removeprefix("text_encoder/model/"): t for n, t in weights(trained.checkpoint).items()}
    assert all(bool((t == text[f"text_model.{n}"]).all()) for n, t in pipeline.text_encoder.state_dict().items())


def test_the_same_seed_gives_the_same_bytes_with_any_number_of_decoding_threads(values: Values) -> None:
    one = train({**values, "decode_threads": 1})
    three = train({**values, "decode_threads": 3})
    other = train({**values, "seed": 556})
    assert not differing(one.checkpoint, three.checkpoint)
    assert differing(one.checkpoint, other.checkpoint)


@pytest.mark.parametrize(
    ("more", "stop_at"),
    [({}, 2), ({}, 5), ({"useadam8bit": True, "grad_accum": 2}, 2)],
    ids=["mid-epoch", "at an epoch's end", "8-bit accumulated"],
)
def test_a_stopped_run_resumes_in_its_folder_to_the_same_bytes(values: Values, stop_at: int, more: Values) -> None:
    values = {**values, **more, "lr_scheduler": "cosine", "flip_p": 0.5, "log_step": 3}
    straight = train(values)
    stopped = train(values, stop_at=stop_at)
    assert stopped.ended.phase == "stopped"
    assert stopped.ended.signal_number == signal.SIGINT
    assert stopped.checkpoint.name.startswith("interrupted-tiny-ep")
    resumed = train({"resume_ckpt": str(stopped.checkpoint), "logdir": values["logdir"]})
    assert resumed.run_dir == stopped.run_dir
    assert resumed.of(StepDone)[0].step == stop_at + 1
    assert not differing(straight.checkpoint, resumed.checkpoint)
    assert logged(straight) == logged(stopped, resumed)
    steps = [line["step"] for line in lines_of(resumed.run_dir / "events.jsonl") if line["event"] == "MetricsLogged"]
    assert steps == sorted(set(steps))


def logged(*parts: Trained) -> list[tuple[int, float, float]]:
    return [
        (event.step, event.values["loss/log_step"], event.values["hyperparameter/lr unet"])
        for part in parts
        for event in part.of(MetricsLogged)
    ]


def test_findlast_continues_the_newest_checkpoint(values: Values) -> None:
    stopped = train(values, stop_at=3)
    resumed = train({"resume_ckpt": "findlast", "logdir": values["logdir"]})
    assert resumed.run_dir == stopped.run_dir
    assert resumed.of(RunStarted)[0].step == 3


def test_findlast_without_a_checkpoint_is_an_error_that_names_the_folder(values: Values) -> None:
    with pytest.raises(SettingsError, match=r"no checkpoint in .*logs"):
        train({**values, "resume_ckpt": "findlast"})


def test_a_finished_run_continues_when_max_epochs_is_raised(values: Values) -> None:
    first = train(values)
    longer = train({"resume_ckpt": str(first.run_dir), "max_epochs": 3, "logdir": values["logdir"]})
    assert longer.run_dir == first.run_dir
    assert longer.of(RunStarted)[0].step == first.ended.step
    straight = train({**values, "max_epochs": 3})
    assert not differing(straight.checkpoint, longer.checkpoint)


def test_changed_settings_resume_in_a_new_folder_and_are_reported(values: Values) -> None:
    first = train(values, stop_at=3)
    changed = train({"resume_ckpt": str(first.checkpoint), "lr": 1e-4, "logdir": values["logdir"]})
    assert changed.run_dir != first.run_dir
    assert changed.of(RunStarted)[0].step == 3
    assert "results will not be bit-identical: lr 0.001 -> 0.0001" in said(changed)
    assert json.loads((changed.run_dir / "manifest.json").read_text())["continues"] == str(first.checkpoint)


def test_other_images_start_a_new_run_from_the_weights(values: Values, tmp_path: Path) -> None:
    from tests.tiny import make_images

    first = train(values, stop_at=3)
    others = make_images(tmp_path / "others", [(64, 64)] * 3)
    for number, path in enumerate(sorted(others.iterdir())):
        path.rename(path.with_name(f"other{number // 2}{path.suffix}"))
    fresh = train({"resume_ckpt": str(first.checkpoint), "data_root": [str(others)], "logdir": values["logdir"]})
    assert fresh.of(RunStarted)[0].step == 0
    assert "none of its images are in the dataset" in said(fresh)


def test_an_added_image_is_counted(values: Values, images: Path, tmp_path: Path) -> None:
    copied = shutil.copytree(images, tmp_path / "images")
    first = train({**values, "data_root": [str(copied)]}, stop_at=3)
    shutil.copy(copied / "00.png", copied / "zz.png")
    more = train({"resume_ckpt": str(first.checkpoint), "logdir": values["logdir"]})
    assert more.run_dir != first.run_dir
    assert "1 image added" in said(more)


def test_weights_only_starts_at_step_zero(values: Values) -> None:
    first = train(values, stop_at=3)
    fresh = train({**values, "resume_ckpt": str(first.checkpoint), "weights_only": True, "max_epochs": 1})
    assert fresh.of(RunStarted)[0].step == 0
    assert f"A new run from the weights of {first.checkpoint.name}, since --weights_only is set." in said(fresh)


def test_checkpoints_by_epochs_and_the_last_one(values: Values) -> None:
    trained = train({**values, "max_epochs": 4, "save_every_n_epochs": 2, "disable_textenc_training": True})
    steps = trained.ended.step
    names = [event.path.name for event in trained.of(CheckpointSaved)]
    assert names == [f"tiny-ep01-gs{steps // 2:05d}", f"last-tiny-ep03-gs{steps:05d}"]


def test_checkpoints_by_minutes(values: Values) -> None:
    trained = train({**values, "max_epochs": 1, "ckpt_every_n_minutes": 1e-6})
    assert len(trained.of(CheckpointSaved)) == trained.ended.step


def test_a_frozen_network_is_saved_byte_for_byte(values: Values, sd1: Path) -> None:
    trained = train({**values, "max_epochs": 1, "disable_unet_training": True})
    base, now = weights(sd1), weights(trained.checkpoint)
    base = {name.replace("model/embeddings", "model/text_model.embeddings"): tensor for name, tensor in base.items()}
    assert all(bool((now[name] == tensor).all()) for name, tensor in base.items() if name.startswith(("unet", "vae")))
    assert any(bool((now[name] != tensor).any()) for name, tensor in base.items() if "text_model.embeddings" in name)


def test_an_sd2_model_is_trained_and_its_single_file_has_a_yaml(values: Values, sd2: Path) -> None:
    trained = train({**values, "resume_ckpt": str(sd2), "max_epochs": 1, "gradient_checkpointing": True})
    assert trained.ended.phase == "done"
    single = trained.ended.single_file
    assert single
    assert 'parameterization: "v"' in single.with_suffix(".yaml").read_text()
    with safe_open(single, framework="pt") as tensors:
        assert any(name.startswith("cond_stage_model.model.") for name in tensors.keys())  # noqa: SIM118


def test_gradient_checkpointing_changes_no_result(values: Values) -> None:
    plain = weights(train({**values, "max_epochs": 1}).checkpoint)
    checkpointed = weights(train({**values, "max_epochs": 1, "gradient_checkpointing": True}).checkpoint)
    assert all(bool((plain[n].float() - checkpointed[n].float()).abs().max() < 1e-5) for n in plain if "vae" not in n)


def test_a_run_that_fails_saves_what_it_has_and_says_why(values: Values, monkeypatch: pytest.MonkeyPatch) -> None:
    from ed2.training import loop

    real = loop.optimizer_step

    def failing(run: Run, batches: Sequence[Batch]) -> None:
        if run.state.step == 3:
            raise RuntimeError("the card fell out")
        real(run, batches)

    monkeypatch.setattr(loop, "optimizer_step", failing)
    trained = train(values)
    assert (trained.ended.phase, trained.ended.step) == ("failed", 3)
    assert trained.ended.reason == (
        "Unexpected error: RuntimeError: the card fell out. The run's run.log shows where. "
        "Saved as errored-tiny-ep00-gs00003, which can be resumed."
    )
    assert trained.checkpoint.name == "errored-tiny-ep00-gs00003"
    assert "the card fell out" in (trained.run_dir / "run.log").read_text()


@pytest.mark.parametrize("count", [1, 2, 3])
def test_fewer_images_than_a_batch_are_trained(values: Values, tmp_path: Path, count: int) -> None:
    from tests.tiny import make_images

    few = make_images(tmp_path / "few", [(64, 64)] * count)
    trained = train({**values, "data_root": [str(few)], "batch_size": 4, "max_epochs": 2})
    assert (trained.ended.phase, trained.ended.step) == ("done", 2)


def test_a_broken_image_is_named_and_left_out(values: Values, images: Path, tmp_path: Path) -> None:
    copied = shutil.copytree(images, tmp_path / "images")
    (copied / "broken.png").write_bytes((copied / "00.png").read_bytes()[:500])
    trained = train({**values, "data_root": [str(copied)], "max_epochs": 1})
    assert trained.ended.phase == "done"
    assert "An image was left out. broken.png: the file is cut short at 500 bytes." in said(trained)
    assert describe_end(trained.ended).endswith("1 image could not be read and was left out.")


def test_a_single_file_of_another_run_is_never_replaced(values: Values, tmp_path: Path) -> None:
    first = train({**values, "max_epochs": 1})
    assert first.ended.single_file
    content = first.ended.single_file.read_bytes()
    second = train({**values, "max_epochs": 1, "seed": 3})
    assert second.ended.single_file
    assert second.ended.single_file.name == f"{first.ended.single_file.stem} (2).safetensors"
    assert first.ended.single_file.read_bytes() == content


def test_a_folder_without_images_is_named(values: Values, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match="empty") as caught:
        train({**values, "data_root": [str(tmp_path / "empty")]})
    assert caught.value.exit_code == 3


def test_a_missing_model_is_named(values: Values, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"there is no model .*gone"):
        train({**values, "resume_ckpt": str(tmp_path / "gone")})


def test_a_folder_that_cannot_be_written_is_named(values: Values, tmp_path: Path) -> None:
    (tmp_path / "a file").write_text("")
    with pytest.raises(SettingsError, match=r"logdir: the folder .*a file.* cannot be written"):
        train({**values, "logdir": str(tmp_path / "a file" / "logs")})


def test_a_missing_model_setting_is_an_error_that_says_what_to_give(values: Values) -> None:
    with pytest.raises(SettingsError, match="no model to start from"):
        train({**values, "resume_ckpt": ""})


def test_model_errors_list_all_missing_files(sd1: Path, tmp_path: Path) -> None:
    from ed2.models.files.folder import open_folder

    broken = shutil.copytree(sd1, tmp_path / "broken")
    (broken / "vae" / "config.json").unlink()
    (broken / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(ModelError) as caught:
        open_folder(broken)
    assert "vae/config.json: the file is missing." in str(caught.value)
    assert "unet/diffusion_pytorch_model.safetensors: the weights are missing." in str(caught.value)
