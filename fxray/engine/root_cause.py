"""Why a process that vLLM started has failed, which only the output tells that it shares with this one."""

import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path

_FAILED = re.compile(r"(?:EngineCore|WorkerProc) (?:failed to start|encountered a fatal error)")
"""Of a call that a rank of a parallel engine refuses, which ends nothing, vLLM says that it "hit an exception"."""
_ERROR = re.compile(r"^(?:\(.*?\] )?((?:\w+\.)*\w*(?:Error|Exception): .+)$", re.MULTILINE)
_MOST_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class SharedOutput:
    """What this process and those that it starts write from now on, where that goes to files, as Ray's workers' does.

    Attributes:
        starts: By file descriptor, where its file ended.
    """

    starts: tuple[tuple[int, int], ...]

    @classmethod
    def from_now(cls) -> "SharedOutput":
        """From the ends that standard output and error have now."""
        found = ((number, os.fstat(number)) for number in (1, 2))
        return cls(tuple((number, each.st_size) for number, each in found if stat.S_ISREG(each.st_mode)))

    def root_cause(self) -> str:
        """The first error below vLLM's word that a process of its own has failed: "ValueError: no room"; or nothing."""
        for number, start in self.starts:
            try:
                with Path(f"/proc/self/fd/{number}").open("rb") as file:
                    file.seek(max(start, file.seek(0, os.SEEK_END) - _MOST_BYTES))
                    said = file.read().decode("utf-8", "replace")
            except OSError:
                continue
            if (failed := _FAILED.search(said)) and (error := _ERROR.search(said, failed.end())):
                return error[1].strip()
        return ""
