"""The console: a web page that talks to the gateway over gRPC and to nothing else."""

import os

# Gradio reads these when it is imported. No request may leave the machine.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ["HF_HUB_OFFLINE"] = "1"
