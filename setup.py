"""Install owled_ros without ROS: everything but nodes/, with the `owled` command. ROS 2 users build with colcon instead.

Needs setuptools; where a C++ compiler and CMake are found, the sparse kernels of csrc/ are built too.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from setuptools import Distribution, find_packages, setup
from setuptools.command.build_py import build_py

TOP = Path(__file__).resolve().parent
SHARED = ("config", "msg", "schema")  # values that commands read at run time
HOME = "https://example.org/owled_ros"  # PLACEHOLDER: the project's address; also in package.xml and CITATION.cff


def version() -> str:
    """Read the version without importing the package."""
    return (TOP / "owled_ros" / "version.py").read_text().split('VERSION = "')[1].split('"')[0]


def listed(name: str) -> list[str]:
    """Read a list of requirements/."""
    lines = (TOP / "requirements" / name).read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


class BuildWithKernels(build_py):
    """Copy the Python sources, and the native library beside them where it can be built."""

    def run(self) -> None:
        """Build; without a compiler the package falls back to torch and says so when it runs."""
        super().run()
        if not (TOP / "csrc" / "CMakeLists.txt").exists():
            return
        if shutil.which("cmake") is None or not any(map(shutil.which, ("c++", "g++", "clang++"))):
            self.announce("no CMake or no C++ compiler: the sparse kernels are left out", level=3)
            return
        build = TOP / "build" / "pip_csrc"
        subprocess.run(["cmake", "-S", str(TOP / "csrc"), "-B", str(build), "-DCMAKE_BUILD_TYPE=Release"], check=True)
        subprocess.run(["cmake", "--build", str(build), "--parallel", "2"], check=True)
        for library in build.rglob("libowled_sparse.so"):
            self.copy_file(str(library), str(Path(self.build_lib) / "owled_ros" / "sparse" / library.name))


class BinaryDistribution(Distribution):
    """A wheel with a native library belongs to one platform."""

    def has_ext_modules(self) -> bool:
        """Say that it is not pure Python."""
        return (TOP / "csrc" / "CMakeLists.txt").exists()


setup(
    name="owled_ros",
    version=version(),
    description="Prunes a driving LLM or VLM with OWLed, runs it fast and keeps it calibrated (without the ROS 2 nodes)",
    long_description=(TOP / "README.md").read_text(),
    long_description_content_type="text/markdown",
    author="The owled_ros contributors",
    url=HOME,
    project_urls={"Source": HOME, "Issues": f"{HOME}/issues", "Changes": f"{HOME}/blob/main/CHANGELOG.md"},
    license="Apache-2.0",
    license_files=["LICENSE"],
    keywords=["ROS 2", "autonomous driving", "vision-language model", "pruning", "sparse inference"],
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: C++",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
    python_requires=">=3.11",
    packages=find_packages(include=["owled_ros", "owled_ros.*"], exclude=["owled_ros.nodes", "owled_ros.nodes.*"]),
    include_package_data=False,
    package_data={
        "": [
            "*.json",
            "*.html",
            "*.jinja",
            "*.j2",
            "*.css",
            "*.txt",
            "*.safetensors",
            "*.yaml",
            "*.model",
            "*.cu",
            "*.cuh",
            "share/**",
        ]
    },
    data_files=[
        (
            f"share/owled_ros/{folder}",
            [str(path.relative_to(TOP)) for path in sorted((TOP / folder).glob("*")) if path.is_file()],
        )
        for folder in SHARED
    ],
    install_requires=listed("run.txt"),
    extras_require={"dev": listed("dev.txt")},
    entry_points={"console_scripts": ["owled = owled_ros.__main__:main"]},
    cmdclass={"build_py": BuildWithKernels},
    distclass=BinaryDistribution,
)
