"""Published benchmarks and folders of videos."""
