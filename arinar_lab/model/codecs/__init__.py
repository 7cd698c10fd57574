"""Codecs: what makes tokens of images and images of tokens."""
