"""Everything that knows ComfyUI: the only folder of this pack that imports comfy, folder_paths and server."""
