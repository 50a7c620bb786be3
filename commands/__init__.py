"""What a user starts himself beside ComfyUI: `python commands/check.py`."""
