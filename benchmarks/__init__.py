"""`make bench`: boots the image and measures it; see docs/benchmarks.md."""
