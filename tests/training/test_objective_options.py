"""What may be changed about the objective: accumulation, timesteps, perturbation, clip skip, frozen text encoder, v."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ed2.data.loader import Batch
from ed2.data.variants import VisitKey
from ed2.models.base import ModelSource
from ed2.models.families.clip import EmbedsCache, freeze_text_encoder
from ed2.models.families.sd import StableDiffusion, load
from ed2.models.files.source import open_base
from ed2.models.memory import enable_checkpointing
from ed2.models.process import DiffusionProcess
from ed2.sampling.sampler import rescaled
from ed2.sampling.schedulers import ddim
from ed2.training.objective import Objective, ObjectiveOptions, huber, mse
from tests.training.test_objective import CPU, SEED, batch_of

BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def source(folder: Path, **scheduler: object) -> ModelSource:
    return open_base(folder, scheduler)


def model_of(folder: Path, *trained: str, **scheduler: object) -> StableDiffusion:
    return load(source(folder, **scheduler), trained=trained, device=CPU, frozen_dtype=torch.float32)


def gradients(model: StableDiffusion, batches: list[Batch]) -> Tensor:
    objective = Objective(model, huber, SEED, CPU, ObjectiveOptions(min_snr_gamma=5.0))
    for batch in batches:
        (objective(batch).sum() / 4).backward()
    return torch.cat(
        [p.grad.flatten() for n in model.parts.values() for p in n.module.parameters() if p.grad is not None]
    )


def test_gradients_of_accumulated_batches_are_those_of_the_big_batch_to_a_millionth(sd1: Path) -> None:
    whole = batch_of(4)
    together = gradients(model_of(sd1, "unet", "text_encoder"), [whole])
    apart = gradients(model_of(sd1, "unet", "text_encoder"), [whole.part(0, 3), whole.part(3, 4)])
    assert float((together - apart).norm() / together.norm()) < 1e-6


def test_timesteps_stay_within_their_range_and_fill_it(sd1: Path) -> None:
    objective = Objective(model_of(sd1), mse, SEED, CPU, ObjectiveOptions(timestep_start=200, timestep_end=210))
    visits = [VisitKey(0, f"{number}.png", 0) for number in range(200)]
    assert set(objective.timesteps(visits).tolist()) == set(range(200, 210))


def test_perturbed_embeddings_have_the_deviation_of_the_paper(sd1: Path) -> None:
    model, batch = model_of(sd1), batch_of(4)
    plain = Objective(model, mse, SEED, CPU)
    noisy = replace(plain, options=ObjectiveOptions(embedding_perturbation=2.0))
    shift = noisy.conditioning(batch).hidden - plain.conditioning(batch).hidden
    assert float(shift.std()) == pytest.approx(2.0 / 32**0.5, rel=0.02)
    assert torch.equal(noisy.conditioning(batch.part(1, 2)).hidden[0], noisy.conditioning(batch).hidden[1])
    model.caption_chunks = 2
    beside_long = replace(batch, captions=("a cat " * 60, *batch.captions[1:]))
    alone = noisy.conditioning(batch.part(1, 2)).hidden[0]
    assert torch.equal(noisy.conditioning(beside_long).hidden[1], alone.repeat(2, 1))


@pytest.mark.parametrize("trained", [(), ("text_encoder",)], ids=["frozen", "trained"])
def test_clip_skip_takes_an_earlier_layer_through_the_final_norm(sd1: Path, trained: tuple[str, ...]) -> None:
    model = model_of(sd1, *trained)
    at_end = model.encode_captions(["a cat"]).hidden
    model.clip_skip, model.cache = 1, EmbedsCache()
    assert torch.equal(model.encode_captions(["a cat"]).hidden, at_end)
    model.clip_skip, model.cache = 2, EmbedsCache()
    skipped = model.encode_captions(["a cat"]).hidden
    inner = getattr(model.parts["text_encoder"].module, "text_model", model.parts["text_encoder"].module)
    inner.encoder.layers = inner.encoder.layers[:-1]
    model.clip_skip, model.cache = 0, EmbedsCache()
    assert torch.allclose(skipped, model.encode_captions(["a cat"]).hidden, atol=1e-6)


def test_a_frozen_text_encoder_encodes_each_caption_once(sd1: Path) -> None:
    model = model_of(sd1, "unet")
    calls: list[int] = []
    model.parts["text_encoder"].module.register_forward_hook(lambda *_: calls.append(1))
    first = model.encode_captions(["a cat", "a dog", "a cat"]).hidden
    again = model.encode_captions(["a dog"]).hidden
    assert len(calls) == 2
    assert torch.equal(first[0], first[2])
    assert torch.equal(first[1], again[0])
    assert not first.requires_grad


def test_the_cache_is_bounded_and_drops_the_oldest_entries() -> None:
    store = EmbedsCache(max_bytes=3 * 40)
    for key in "abcad":
        store.get(key, lambda: torch.zeros(10))
    assert (len(store), store.num_bytes) == (3, 120)
    asked: list[str] = []
    for key in "ab":
        store.get(key, lambda key=key: asked.append(key) or torch.zeros(10))
    assert asked == ["b"]


@pytest.mark.parametrize("is_checkpointed", [False, True])
def test_frozen_parts_of_a_text_encoder_get_no_gradient_and_the_rest_do(sd1: Path, is_checkpointed: bool) -> None:
    model = model_of(sd1, "text_encoder")
    freeze_text_encoder(model.parts["text_encoder"].module, last_layers=1, embeddings=False, final_layer_norm=False)
    if is_checkpointed:
        enable_checkpointing(model)
    Objective(model, mse, SEED, CPU)(batch_of(1)).sum().backward()
    parameters = dict(model.parts["text_encoder"].module.named_parameters())
    with_gradient = {name for name, p in parameters.items() if p.grad is not None and p.grad.any()}
    allowed = {name for name in parameters if "layers.1." in name or "final_layer_norm" in name}
    assert with_gradient <= allowed
    assert any("layers.1." in name for name in with_gradient)
    assert any("final_layer_norm" in name for name in with_gradient)


def test_a_schedule_of_zero_terminal_snr_has_the_values_of_the_paper() -> None:
    """Lin et al. 2023, algorithm 1: the roots are shifted by the last and scaled so that the first stays."""
    plain = DiffusionProcess.from_config(BETAS)
    zero = DiffusionProcess.from_config({**BETAS, "rescale_betas_zero_snr": True, "prediction_type": "v_prediction"})
    roots = plain.alphas_cumprod.sqrt()
    expected = (roots - roots[-1]) * roots[0] / (roots[0] - roots[-1])
    assert torch.allclose(zero.alphas_cumprod.sqrt(), expected, atol=1e-4)
    assert zero.alphas_cumprod[-1] == 0
    assert (zero.is_zero_snr, plain.is_zero_snr) == (True, False)
    last = torch.tensor([999])
    latents, noise = torch.ones(1, 1, 1, 1), torch.full((1, 1, 1, 1), 3.0)
    assert zero.add_noise(latents, noise, last).item() == 3.0
    assert zero.target(latents, noise, last).item() == -1.0
    assert zero.snr(last).item() == 0


def test_samples_with_zero_terminal_snr_start_at_the_last_timestep_and_stay_finite() -> None:
    for prediction_type in ("epsilon", "v_prediction"):
        scheduler = ddim({**BETAS, "rescale_betas_zero_snr": True, "prediction_type": prediction_type})
        scheduler.set_timesteps(30)
        assert scheduler.timesteps[0] == 999
        latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
        assert scheduler.step(latents * 0.9, scheduler.timesteps[0], latents).prev_sample.isfinite().all()


def test_rescaled_guidance_takes_the_deviation_back_by_its_share() -> None:
    generator = torch.Generator().manual_seed(2)
    prompted = torch.randn(2, 4, 8, 8, generator=generator)
    guided = 5 * prompted + torch.randn(2, 4, 8, 8, generator=generator)
    whole = rescaled(guided, prompted, 1.0)
    assert torch.allclose(whole.std(dim=(1, 2, 3)), prompted.std(dim=(1, 2, 3)), rtol=1e-5)
    assert torch.allclose(rescaled(guided, prompted, 0.7), 0.7 * whole + 0.3 * guided)
    assert torch.equal(rescaled(guided, prompted, 0.0), guided)


def test_a_long_caption_is_read_in_chunks_as_web_uis_do(sd1: Path) -> None:
    model = model_of(sd1)
    words = [f"word{number}" for number in range(40)]
    ids = model.encoders[0].tokenizer(" ".join(words), add_special_tokens=False).input_ids
    assert 75 < len(ids) <= 150
    start, end = model.encoders[0].tokenizer.convert_tokens_to_ids(["<|startoftext|>", "<|endoftext|>"])
    chunks = [[start, *ids[:75], end], [start, *ids[75:], end] + [end] * (150 - len(ids))]
    with torch.no_grad():
        states = model.parts["text_encoder"].module(torch.tensor(chunks)).last_hidden_state
    model.caption_chunks = 3
    found = model.encode_captions([" ".join(words)]).hidden
    torch.testing.assert_close(found, states.flatten(0, 1)[None], rtol=1e-5, atol=1e-6)
    model.caption_chunks = 1
    cut = model.encode_captions([" ".join(words)]).hidden
    torch.testing.assert_close(cut, states[:1], rtol=1e-5, atol=1e-6)


def test_captions_of_different_lengths_mean_the_same_in_one_batch_as_alone(sd1: Path) -> None:
    model = model_of(sd1, "text_encoder")
    model.caption_chunks = 3
    batch = batch_of(3)
    lengths = [" ".join(f"word{number}" for number in range(count)) for count in (3, 40, 70)]
    batch = replace(batch, captions=tuple(lengths))
    assert [model.encode_captions([caption]).hidden.shape[1] for caption in lengths] == [77, 154, 231]
    objective = Objective(model, mse, SEED, CPU)
    with torch.no_grad():
        together = objective(batch)
        alone = torch.cat([objective(batch.part(place, place + 1)) for place in range(3)])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-6)
