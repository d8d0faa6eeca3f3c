"""SVGT Workbench: train, insert, see and test value modules on frozen language models.

The method is SVGT, *Toward Stable Value Alignment: Introducing Independent Modules for
Consistent Value Guidance* (ICML 2026, arXiv:2605.11712). The rooms of this package form one
staircase, and every room imports only from the rooms below it; CONTRIBUTING.md shows the picture
and ``tests/test_imports.py`` enforces it.
"""

__version__ = "0.1.0"
