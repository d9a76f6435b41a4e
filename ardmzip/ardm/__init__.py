"""The paper's own models: sub-pixels in a random order (OA-ARDM), and in stages of their value (ARDM-Upscale).

docs/PAPER.md tells what they are for, docs/FORMAT.md ("Random order") how they code.
"""
