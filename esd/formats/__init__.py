"""Weights in files: read in every form that erasures are published in, and written in the forms others read."""
