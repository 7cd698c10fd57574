"""The folder of work: where commands find what they read, and put what they make.

runs/         a folder for each run
studies/      a folder for each study and sweep
tracking/     MLflow's store, where no server is named
references/   statistics of reference images
caches/       latents
codecs/       autoencoders
data/         image data sets that were fetched
experiments/  recipes
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Workspace:
    """A folder of work.

    Arguments:
        root: its absolute path; empty for the working directory, whichever that is.
    """

    root: Path = Path()

    @property
    def runs(self) -> Path:
        return self.root / "runs"

    @property
    def studies(self) -> Path:
        return self.root / "studies"

    @property
    def tracking(self) -> Path:
        return self.root / "tracking"

    @property
    def references(self) -> Path:
        return self.root / "references"

    @property
    def caches(self) -> Path:
        return self.root / "caches"

    @property
    def codecs(self) -> Path:
        return self.root / "codecs"

    @property
    def experiments(self) -> Path:
        return self.root / "experiments"

    def path(self, name: str | Path) -> Path:
        """A path as recipes and studies write it, from here; as it is written
        where nothing lies there.
        """
        path = self.root / name
        return path if path.exists() else Path(name)


HERE = Workspace()
"""The working directory: the command line's folder of work."""
