"""The `clipbert` command and the experiments that it runs."""
