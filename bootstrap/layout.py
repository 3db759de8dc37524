"""Where things lie in a source tree that ./owled has set up. Needs the standard library only."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Layout:
    """Paths of one source tree."""

    top: Path

    @property
    def venv(self) -> Path:
        """Virtual environment."""
        return self.top / ".venv"

    @property
    def venv_python(self) -> Path:
        """Interpreter of the virtual environment."""
        return self.venv / "bin" / "python"

    @property
    def build(self) -> Path:
        """What building needs and leaves behind."""
        return self.top / "build"

    @property
    def install(self) -> Path:
        """The built interfaces and libraries."""
        return self.top / "install"

    @property
    def requirements(self) -> Path:
        """Lists of Python packages."""
        return self.top / "requirements"

    @property
    def packages_stamp(self) -> Path:
        """Written when the packages are installed."""
        return self.venv / "owled_setup.json"

    @property
    def build_stamp(self) -> Path:
        """Written when the package is built."""
        return self.install / "owled_build.json"

    @property
    def log(self) -> Path:
        """Everything that pip, CMake and colcon said in the last set-up."""
        return self.build / "setup.log"
