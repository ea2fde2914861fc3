"""The page in the browser; the only part of the program that knows Gradio."""

import os

from ed2.ui.proxies import bypass_proxies

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when Gradio is imported
bypass_proxies()
