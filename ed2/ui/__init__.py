"""The page in the browser; the only part of the program that knows Gradio."""

import os

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when Gradio is imported
