"""The environment variables that the package reads. `arinar --help` shows those
that are users' to set.
"""

from __future__ import annotations

import os
from dataclasses import dataclass


@dataclass(frozen=True)
class Variable:
    """An environment variable; an empty one counts as not set.

    Arguments:
        name: of it; default: its value where it is not set; meaning: what it does, in a line.
        internal: whether a process sets it for those that it starts, and no user does.
    """

    name: str
    default: str
    meaning: str
    internal: bool = False

    def read(self) -> str:
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
    """A line for each variable that users may set: its name, its meaning, and its
    default where there is one.
    """
    shown = [variable for variable in VARIABLES if not variable.internal]
    width = max(len(variable.name) for variable in shown)
    defaults = {
        variable: f" (default {variable.default})" if variable.default else "" for variable in shown
    }
    return "\n".join(
        f"  {variable.name:{width}}  {variable.meaning}{defaults[variable]}" for variable in shown
    )
