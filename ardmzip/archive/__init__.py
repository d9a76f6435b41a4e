"""Many images in one file, each readable alone (docs/FORMAT.md, "Archives"). The codec does not need this package."""
