"""An independent implementation of the published procedure, made of diffusers parts, to test against."""
