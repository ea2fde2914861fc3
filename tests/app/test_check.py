"""What a check forecasts for a card that is not here."""

from ed2.app.checks.check import checked
from tests.runs import Values


def test_a_checkpoint_of_a_planned_card_holds_what_its_optimizer_leaves(values: Values) -> None:
    sd1 = {**values, "resume_ckpt": ""}

    def bytes_of(vram_gb: float | None = None, **more: object) -> int:
        told = checked({**sd1, **more}, None, quiet=True, vram_gb=vram_gb).as_object()
        return int(told["disk"]["checkpoint_bytes"])

    assert bytes_of(24) == bytes_of(useadam8bit=True) < bytes_of(optimizer="adamw") == bytes_of(24, optimizer="adamw")
