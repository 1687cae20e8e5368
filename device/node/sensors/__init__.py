"""One file a sensor; the file name is the `kind` in config.json."""
