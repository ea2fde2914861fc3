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
    ).set(
        block_title_background_fill="none",
        block_title_background_fill_dark="none",
        block_title_text_color="*body_text_color",
        block_title_text_color_dark="*body_text_color",
        block_title_padding="0",
        block_info_text_color="#55617a",
        block_info_text_color_dark="#a9b4c6",
        body_text_color_subdued="#55617a",
        body_text_color_subdued_dark="#a9b4c6",
        input_border_width="1px",
        input_border_color="*neutral_300",
        input_border_color_dark="*neutral_600",
        block_border_width="1px",
        block_radius="10px",
        container_radius="10px",
        input_radius="6px",
        button_large_radius="8px",
        button_medium_radius="8px",
        checkbox_border_color="*neutral_500",
        checkbox_border_color_dark="*neutral_400",
        checkbox_border_width="1px",
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_hover="*primary_700",
        button_secondary_background_fill="*neutral_200",
        button_secondary_background_fill_hover="*neutral_300",
    )
