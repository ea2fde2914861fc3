"""How the page looks: colours and letters of the system, nothing from the network."""

from pathlib import Path

import gradio as gr

CSS_FILE = Path(__file__).with_name("page.css")


def theme() -> gr.themes.Base:
    """The theme: fonts of the system, light and dark as the system has it."""
    return gr.themes.Soft(
        primary_hue="indigo",
        neutral_hue="slate",
        font=["system-ui", "Segoe UI", "sans-serif"],
        font_mono=["ui-monospace", "Consolas", "monospace"],
    )
