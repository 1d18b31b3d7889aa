"""Kernels for the notebooks: always in the interpreter that asks for one.

Jupyter looks kernels up by name, and whatever is called python3 first on its path executes the
notebook, in another environment with another fdimlib. Nothing is looked up here.
"""

import os
import socket
import sys
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from weakref import WeakSet

from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager

from fdimlib.companion import REPOSITORY

_started: "WeakSet[OwnKernel]" = WeakSet()


def kill_all() -> None:
    """End the kernels that this process has started; whoever waits for one is told it died."""
    for kernel in list(_started):
        process = getattr(kernel.provisioner, "process", None)
        if process is not None and process.poll() is None:
            process.kill()


LONGEST_ADDRESS = 100  # bytes in the name of a socket: 107 on Linux, 103 on macOS


class OwnKernel(AsyncKernelManager):
    """Starts a kernel in this interpreter, with this fdimlib, whatever kernelspecs exist.

    Its files, IPython's profile among them, lie in a private folder that goes with it: nothing of
    the user's configuration is read or written. It is spoken to through sockets there (IPC)
    where the platform has them, so that no ports are taken.

    Raises:
        ModuleNotFoundError: on starting, without ipykernel.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._folder = TemporaryDirectory(prefix="fdimlib-")
        self.connection_file = str(Path(self._folder.name) / "kernel.json")
        address = Path(self._folder.name) / "kernel-ipc-5"
        if hasattr(socket, "AF_UNIX") and len(os.fsencode(address)) <= LONGEST_ADDRESS:
            self.transport = "ipc"

    @property
    def kernel_spec(self) -> KernelSpec:
        command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        return KernelSpec(argv=command, display_name="Python 3", language="python")

    async def start_kernel(  # type: ignore[override]  # that of AsyncKernelManager is awaited
        self, *args: Any, **options: Any,
    ) -> None:
        if find_spec("ipykernel") is None:
            raise ModuleNotFoundError(f"kernel: {sys.executable} has no ipykernel, in which "
                                      "notebooks run; pip install 'fdimlib[companion]'")
        environment = dict(options.pop("env", os.environ))
        environment["IPYTHONDIR"] = self._folder.name
        if (REPOSITORY / "notebooks").is_dir():  # a clone, perhaps not the one that is installed
            paths = [str(REPOSITORY), environment.get("PYTHONPATH", "")]
            environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
        _started.add(self)
        await super().start_kernel(*args, env=environment, **options)
