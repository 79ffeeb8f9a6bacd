"""Measures of image quality, comparisons of programs by them, and reports."""
