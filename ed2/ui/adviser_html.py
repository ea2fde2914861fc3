"""What the adviser says, as HTML."""

from functools import lru_cache
from pathlib import Path

from ed2.app.adviser import Judgement, advise
from ed2.app.runs.records import checkpoints_of
from ed2.app.snapshot import RunSnapshot
from ed2.checkpoint.retention import best_validated
from ed2.ui.html import escape

LOOKS = {"learning": "good", "flat": "wait", "unstable": "bad", "memorising": "wait", "early": "busy", "off": ""}

OFFER = '<p><button type="button" class="ed-link" data-validate="">Validate the next run</button></p>'


def adviser_html(shown: RunSnapshot, *, is_owner: bool = False) -> str:
    """What to think of the run, and its best checkpoint; empty without a run.

    The owner is offered to validate the next run, if this one is not validated.
    """
    if shown.run_dir is None:
        return ""
    advice = advise(shown)
    best = ""
    if advice.best:
        step, loss = advice.best
        where = _best_checkpoint(shown.run_dir, step, shown.saves)
        best = f'<p class="ed-note">Lowest validation loss: {loss:.4f} at step {step:,}. {escape(where)}</p>'
    pill = f'<span class="ed-pill" data-look="{LOOKS[advice.verdict]}">{escape(advice.headline)}</span>'
    return (
        f'<section class="ed-card ed-advice-card" aria-label="Adviser" data-verdict="{advice.verdict}">{pill}'
        f"<p>{escape(advice.text)}</p>{best}{OFFER if is_owner and advice.verdict == 'off' else ''}</section>"
    )


def adviser_key(shown: RunSnapshot) -> tuple[Judgement, object, object]:
    """Changes whenever `adviser_html` does."""
    return advise(shown), shown.run_dir, shown.saves


@lru_cache(maxsize=64)
def _best_checkpoint(run_dir: Path, best_step: int, saves: tuple[int, ...]) -> str:
    """The best checkpoint of a run, looked up once for each save and each new best validation."""
    best = best_validated(checkpoints_of(run_dir))
    if best is None:
        return "No checkpoint was saved after the first validation."
    return f"Best of the saved checkpoints: {best.name}."
