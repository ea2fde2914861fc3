"""What the page forecasts of a run."""

from ed2.app.forecast import forecast
from ed2.settings.files import with_defaults


def test_the_size_of_a_checkpoint_follows_the_card_that_is_planned_for() -> None:
    settings = with_defaults({"resume_ckpt": "", "device": "cpu"})
    here, on_card = (
        next(line for line in forecast(settings, None, vram_gb) if line.startswith("A checkpoint takes"))
        for vram_gb in (None, 12)
    )
    assert here != on_card  # AdamW against its 8-bit form
