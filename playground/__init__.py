"""Compare quantizations of a vision-language model side by side."""

import os

__version__ = "0.1.0"

# Before gradio and huggingface_hub are imported: this app sends nothing to anybody unasked.
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
