"""What `run.py` starts: the environment, the ComfyUI server, the demo. No part of the node pack imports it."""
