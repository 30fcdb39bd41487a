"""Draws what the sandbox answers with: images, audio and 3D models."""
