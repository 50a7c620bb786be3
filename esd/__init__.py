"""ESD, "Erasing Concepts from Diffusion Models" (ICCV 2023, arXiv 2303.07345), on any denoiser.

Nothing in this package knows the host: it needs torch, einops, safetensors and the standard library.
"""
