"""One kind of device per file; the file's name is what users type."""
