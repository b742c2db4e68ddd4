"""Samples kept between rounds."""
