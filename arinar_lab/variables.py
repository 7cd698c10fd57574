"""The environment variables of the package. `arinar --help` lists those that users may set."""

from __future__ import annotations

import os
from dataclasses import dataclass


@dataclass(frozen=True)
class Variable:
    """An environment variable; an empty one counts as not set.

    Arguments:
        name: The name of the variable.
        default: The value where it is not set.
        meaning: The meaning, in one line.
        internal: Whether a process sets it for the processes that it starts, and no user does.
    """

    name: str
    default: str
    meaning: str
    internal: bool = False

    def read(self) -> str:
        """The value in the environment, or else the default."""
        return os.environ.get(self.name) or self.default


STORAGE = Variable(
    "ARINAR_STORAGE", "", "address of a queue on a server; before storage: in the study's file"
)
HEARTBEAT = Variable(
    "ARINAR_HEARTBEAT", "30", "seconds between two signs of life of a worker, on a server"
)
GRACE = Variable(
    "ARINAR_GRACE", "300", "seconds of silence after which a worker is lost, on a server"
)
TRACKING = Variable("ARINAR_TRACKING", "on", "off sends nothing to MLflow")
TRACKING_URI = Variable(
    "MLFLOW_TRACKING_URI", "", "MLflow's server or store, instead of a file in tracking/"
)
STUDY = Variable(
    "ARINAR_STUDY", "", "the study that notebooks read, instead of the newest finished one"
)

PARENT = Variable("ARINAR_PARENT", "", "process with which a worker ends", internal=True)
HELPER_VARIABLE = Variable(
    "ARINAR_HELPS",
    "",
    "process that one helps with a large job, and with which it ends",
    internal=True,
)
RUN_VARIABLE = Variable(
    "ARINAR_RUN",
    "",
    "folder of the run that the first process trains, for the others",
    internal=True,
)

VARIABLES = (
    STORAGE,
    HEARTBEAT,
    GRACE,
    TRACKING,
    TRACKING_URI,
    STUDY,
    PARENT,
    HELPER_VARIABLE,
    RUN_VARIABLE,
)


def listing() -> str:
    """A line for each variable that users may set: name, meaning, and default if there is one."""
    lines = []
    width = max(len(variable.name) for variable in VARIABLES if not variable.internal)
    for variable in VARIABLES:
        if not variable.internal:
            default = f" (default {variable.default})" if variable.default else ""
            lines.append(f"  {variable.name:{width}}  {variable.meaning}{default}")
    return "\n".join(lines)
