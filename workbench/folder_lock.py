"""One owner at a time for a folder, held by the operating system.

The lock is freed when its owner dies, so that a killed run never has to be unlocked by hand.
"""

import fcntl
import os
from pathlib import Path

from workbench.errors import FolderInUseError, RunError

LOCK_FILE = ".lock"


class FolderLock:
    """An advisory lock of the operating system on ``.lock``, which also names its owner.

    The file stays when the lock is released: removing it would let two processes lock two files
    of the same name. What counts is the lock, not the file, so one left by a dead process (or
    naming a process number that was given out again) is simply taken over.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    @classmethod
    def acquire(cls, folder: Path) -> "FolderLock":
        """Own a folder, which is created.

        Raises:
            FolderInUseError: Another process owns it.
            RunError: It cannot be made, written or locked.
        """
        path = folder / LOCK_FILE
        try:
            folder.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise RunError(
                f"cannot use {folder} as a run folder ({error.strerror or error}); "
                "choose a folder that can be made and written"
            ) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(descriptor, 0)
            os.write(descriptor, f"{os.getpid()}\n".encode())
        except BlockingIOError as error:
            owner = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip() or "unknown"
            os.close(descriptor)
            raise FolderInUseError(
                f"{folder} is in use by another run (process {owner}); "
                "wait for it, or choose a new folder"
            ) from error
        except OSError as error:
            os.close(descriptor)
            raise RunError(f"cannot lock {path} ({error.strerror or error})") from error
        return cls(descriptor)

    @staticmethod
    def is_held(folder: Path) -> bool:
        """Whether a live process owns a folder; asking disturbs nobody.

        Raises:
            RunError: The lock cannot be read.
        """
        path = folder / LOCK_FILE
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise RunError(f"cannot read {path} ({error.strerror or error})") from error
        try:
            if not os.pread(descriptor, 1, 0):
                return False  # an owner writes its number; so nobody who starts is ever disturbed
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
        return False

    def release(self) -> None:
        """Let the next one own it."""
        os.ftruncate(self._descriptor, 0)
        os.close(self._descriptor)
