"""Running code on hostile files in a process of its own: what it says of each, and the memory it takes."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.support.running import ROOT

_LIMIT = 3 << 30  # bytes of data that a process may ask for; what fails beyond is a MemoryError
_FRAME = """
import json, resource, sys
resource.setrlimit(resource.RLIMIT_DATA, ({limit}, {limit}))

def peak():
    lines = open("/proc/self/status").read().splitlines()
    found = {{line.split(":")[0]: line.split()[1] for line in lines if line.startswith("Vm")}}
    return int(found["VmHWM"]), int(found["VmRSS"])

def answer(name, ask, argument):
    open("/proc/self/clear_refs", "w").write("5")  # peak() begins anew
    _, before = peak()
    try:
        said = str(ask(argument))
    except Exception as error:
        said = f"{{type(error).__name__}}: {{error}}"
    print(json.dumps([name, said, (peak()[0] - before) / 1024]), flush=True)

{code}

for name, argument in json.loads(sys.argv[1]).items():
    answer(name, ask, argument)
"""


@dataclass(frozen=True)
class Answer:
    """What the code returned, or `Type: text` of the exception; megabytes of memory on top of what it had."""

    said: str
    megabytes: float


def ask_each(code: str, files: Mapping[str, Path | Sequence[str]], path: str = "") -> dict[str, Answer]:
    """Calls the code's `ask` with each file. Those behind one that ended the process have no answer.

    path: a folder to put before PATH.
    """
    arguments = json.dumps(
        {name: file if isinstance(file, list) else str(file) for name, file in files.items()}
    )
    done = subprocess.run(
        [sys.executable, "-c", _FRAME.format(limit=_LIMIT, code=code), arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PATH": os.pathsep.join(filter(None, (path, os.environ["PATH"])))},
        timeout=600,
    )
    answers = {name: Answer(said, size) for name, said, size in map(json.loads, done.stdout.splitlines())}
    assert answers, done.stderr
    return answers
