"""What a screen reader finds in each tab; more may stand between the lines."""

CONTROLS = {
    "Dataset": """
- tabpanel:
  - textbox /Image folders/
  - button /Choose a folder/
  - button "Check"
""",
    "Settings": """
- tabpanel:
  - combobox "Preset"
  - button "Load preset"
  - button "Reset to defaults"
  - search:
    - searchbox "Search settings"
    - group "View":
      - radio "Basic" [checked]
      - radio "All"
      - radio "Changed"
  - combobox "Method"
  - textbox /Project name/
  - spinbutton "Epochs"
  - combobox "Resolution"
  - spinbutton "Batch size"
  - textbox /Base model or checkpoint/
  - checkbox "Freeze text encoder"
  - button /Choose a base model/
  - combobox "Optimizer"
  - textbox /Learning rate/
  - combobox "Learning rate schedule"
  - checkbox "Gradient checkpointing"
  - textbox /Save interval .minutes./
  - button /Save, rename or delete/
  - button /Equivalent command/
  - button /Raw JSON/
  - combobox "GPU memory"
""",
    "Sampling": """
- tabpanel:
  - textbox /Prompt file/
  - spinbutton "Sample interval (steps)"
  - combobox "Sampler"
  - spinbutton "Denoising steps"
  - grid /One prompt per row/:
    - rowgroup:
      - row:
        - columnheader "Prompt"
        - columnheader "Negative prompt"
        - columnheader "Seed"
        - columnheader "Width"
        - columnheader "Height"
        - columnheader "CFG"
    - row "a cat":
      - gridcell "a cat"
  - button "Save prompts"
  - button "Reload file"
""",
    "Resume": """
- tabpanel:
  - combobox "Run"
  - button "Refresh"
  - button "Resume"
  - button "Use as base model"
  - button /Name and notes/
  - button /Extract a LoRA/
""",
    "Train": """
- tabpanel:
  - button "Save now" [disabled]
  - button "Sample now" [disabled]
  - button "Open TensorBoard"
  - button "Share"
  - region "Run figures"
  - region "Memory"
  - heading "Curves" [level=3]
  - heading "Samples" [level=3]
""",
}
STRIP = """
- region "Run status":
  - progressbar "Steps done"
- button "Train"
- button "Add to queue"
- button "Pause" [disabled]
- button "Stop" [disabled]
"""
REACHABLE = """tab => [...document.querySelectorAll('#strip, #tabs [role=tablist], #tab-' + tab)].flatMap(part =>
  [...part.querySelectorAll('button, input, textarea, select, a[href], [tabindex="0"]')].filter(e =>
    e.checkVisibility({visibilityProperty: true, opacityProperty: true}) && !e.disabled && e.tabIndex >= 0
    && !(e.type === 'radio' && !e.checked))).map((e, place) => e.dataset.place = String(place))"""
"""Numbers the controls that the Tab key should reach: of a group of radio buttons the chosen one."""
