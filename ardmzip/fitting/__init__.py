"""Fitting a small part of the network to images, in floating point; what comes out are integers (changes.py)."""
