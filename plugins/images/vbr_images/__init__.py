"""Virtual disks in a directory: the embedded default, and the model that plugin authors copy."""
