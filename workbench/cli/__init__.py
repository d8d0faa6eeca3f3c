"""The ``workbench`` command; :mod:`workbench.cli.main` says how to add a command to it."""
