"""``python -m workbench``: the ``workbench`` command of this very interpreter."""

from workbench.cli.main import main

if __name__ == "__main__":
    main()
