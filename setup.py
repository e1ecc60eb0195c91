"""Builds keras_greedy and tflite_export; pyproject.toml says how."""

from setuptools import setup

setup()
