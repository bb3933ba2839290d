//! Reading a configuration: TOML file, then `--set key=value`, with errors that name the key.
