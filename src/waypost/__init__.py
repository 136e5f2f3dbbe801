"""Waypost: an AI inference gateway. One endpoint before every model provider."""

__version__ = "0.1.0"
