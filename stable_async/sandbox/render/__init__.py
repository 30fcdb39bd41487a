"""Renders the sandbox's outputs: images, audio and 3D models."""
