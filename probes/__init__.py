"""One research question a module: a frozen config, ``run(...) -> records``, no plots, no I/O."""
