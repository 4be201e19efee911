"""What all commands share on a terminal: flags and their help, tables, progress, lines."""
