"""One child process: its process group, its log file, its end."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from pathlib import Path

_LAST_OUTPUT_S = 1.0
_GUARD = Path(__file__).with_name("guard.py")


class Child:
    """A running command in a session of its own; its output goes to a file and to `echo`."""

    def __init__(self, process: asyncio.subprocess.Process, pump: asyncio.Task[None]) -> None:
        self._process = process
        self._pump = pump
        self.pid = process.pid
        # Its result is the exit status, once the output is written and no process is left.
        self.ended = asyncio.create_task(self._wait())

    @classmethod
    async def start(
        cls,
        command: tuple[str, ...],
        *,
        environment: Mapping[str, str],
        log: Path,
        echo: Callable[[str], None] | None,
    ) -> Child:
        """Starts `command`.

        Args:
          command: what to execute.
          environment: the whole environment of the child.
          log: its stdout and stderr are appended here.
          echo: called with each line of output, too; None for none.
        """
        # A pipe of our own: asyncio's would make the wait for the process one for all who hold it.
        read_end, write_end = os.pipe()
        stream = asyncio.StreamReader()
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(stream), os.fdopen(read_end, "rb")
        )
        try:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-I", "-S", str(_GUARD), str(os.getpid()), *command),
                env={**environment, "PYTHONUNBUFFERED": "1"},
                stdin=asyncio.subprocess.DEVNULL,
                stdout=write_end,
                stderr=write_end,
                # Out of the terminal's foreground group: Ctrl-C reaches the supervisor alone,
                # which then stops the services in order.
                start_new_session=True,
            )
        except BaseException:
            transport.close()
            raise
        finally:
            os.close(write_end)
        return cls(process, asyncio.create_task(_pump(stream, transport, log, echo)))

    async def stop(self, *, grace_s: float, hurry: asyncio.Event) -> bool:
        """Ends the process: SIGTERM, then SIGKILL after `grace_s` or as soon as `hurry` is set.

        Returns whether it went by itself.
        """
        hurried = asyncio.create_task(hurry.wait())
        if not self.ended.done() and not hurry.is_set():
            self._process.terminate()
            await asyncio.wait(
                {self.ended, hurried}, timeout=grace_s, return_when=asyncio.FIRST_COMPLETED
            )
        hurried.cancel()
        went = self.ended.done()
        self._kill_group()
        await asyncio.wait({self.ended})
        return went

    async def _wait(self) -> int:
        status = await self._process.wait()
        self._kill_group()
        # Ends with the last holder of the pipe; one that left the group must not be waited for.
        await asyncio.wait({self._pump}, timeout=_LAST_OUTPUT_S)
        self._pump.cancel()
        return status

    def _kill_group(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)


async def _pump(
    stream: asyncio.StreamReader,
    transport: asyncio.ReadTransport,
    log: Path,
    echo: Callable[[str], None] | None,
) -> None:
    """Copies `stream` to the file as it comes, and whole lines of it to `echo`."""
    rest = b""
    with closing(transport), log.open("ab", buffering=0) as file:
        while chunk := await stream.read(65536):
            # A full disk costs the lines; a service must not block on a pipe that nobody empties.
            with suppress(OSError):
                file.write(chunk)
            *lines, rest = (rest + chunk).split(b"\n")
            if echo is not None:
                for line in lines:
                    echo(line.decode(errors="replace"))
    if rest and echo is not None:
        echo(rest.decode(errors="replace"))
