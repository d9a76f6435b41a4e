"""Measured comparisons of ardmzip with PNG, WebP, JPEG-LS and JPEG XL; see bench/README.md."""
