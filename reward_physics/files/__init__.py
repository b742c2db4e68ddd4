"""Video files, read and written by PyAV."""
