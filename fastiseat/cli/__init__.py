"""The command line: one module a command. What they import at the top loads no torch, so that help is quick."""
