"""Where a peer is installed: an environment of its own, with its versions pinned."""

import os
import subprocess
import sys
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol


class Environment(Protocol):
    """What runs a worker."""

    @property
    def python(self) -> Path: ...

    @property
    def variables(self) -> Mapping[str, str]: ...

    def install(self) -> None:
        """Make it, where it is not there yet; subprocess.CalledProcessError where that fails."""
        ...


@dataclass(frozen=True, slots=True)
class Own:
    """The environment of this process: narthex's."""

    python: Path = Path(sys.executable)
    variables: Mapping[str, str] = field(default_factory=dict)

    def install(self) -> None:
        pass


@dataclass(frozen=True, slots=True)
class Venv:
    """Packages from the index, in the versions named."""

    folder: Path
    packages: tuple[str, ...]
    variables: Mapping[str, str] = field(default_factory=dict)

    @property
    def python(self) -> Path:
        return self.folder / "bin/python"

    def install(self) -> None:
        done = self.folder / "installed"
        if done.exists() and done.read_text().split() == list(self.packages):
            return
        print(f"installing {', '.join(self.packages)} in {self.folder}", flush=True)
        subprocess.run([sys.executable, "-m", "venv", self.folder], check=True)
        self.pip("install", *self.packages)
        done.write_text("\n".join(self.packages))

    def pip(self, *arguments: str | Path, variables: Mapping[str, str] | None = None) -> None:
        command = [self.python, "-m", "pip", "--disable-pip-version-check", "--quiet", *arguments]
        subprocess.run(command, check=True, env=os.environ | dict(variables or {}))


@dataclass(frozen=True, slots=True)
class LlamaCppBuild:
    """llama.cpp and its llama-server from the sources that llama-cpp-python brings, for this machine's processor.

    One build serves the binding and the server; it takes a C++ compiler, CMake, and some minutes.
    """

    folder: Path
    version: str

    @property
    def python(self) -> Path:
        return self._venv.python

    @property
    def variables(self) -> Mapping[str, str]:
        return {"LLAMA_CPP_LIB_PATH": str(self.server.parent)}

    @property
    def server(self) -> Path:
        return self.folder / "build/bin/llama-server"

    def install(self) -> None:
        package = f"llama-cpp-python=={self.version}"
        if not self.server.exists():
            print(f"building the llama.cpp of {package} in {self.folder}", flush=True)
            self._build(package)
        if not (self.folder / "installed").exists():
            self._venv.pip("install", "--no-binary", "llama-cpp-python", package,
                           variables={"CMAKE_ARGS": "-DLLAMA_BUILD=OFF"})  # fmt: skip
            (self.folder / "installed").touch()

    @property
    def _venv(self) -> Venv:
        return Venv(self.folder / "venv", ("cmake",))

    def _build(self, package: str) -> None:
        self._venv.install()
        self._venv.pip("download", "--no-deps", "--no-binary", ":all:", "--dest", self.folder, package)
        name = f"llama_cpp_python-{self.version}"
        with tarfile.open(self.folder / f"{name}.tar.gz") as archive:
            archive.extractall(self.folder, filter="data")
        cmake = self._venv.folder / "bin/cmake"
        switches = ("LLAMA_BUILD_UI", "LLAMA_USE_PREBUILT_UI", "LLAMA_OPENSSL", "LLAMA_CURL", "LLAMA_BUILD_TESTS")
        subprocess.run(
            [cmake, "-S", self.folder / name / "vendor/llama.cpp", "-B", self.folder / "build",
             "-DCMAKE_BUILD_TYPE=Release", "-DBUILD_SHARED_LIBS=ON", "-DGGML_NATIVE=ON",
             *(f"-D{switch}=OFF" for switch in switches)],
            check=True, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        jobs = str(len(os.sched_getaffinity(0)))
        subprocess.run(
            [cmake, "--build", self.folder / "build", "--target", "llama", "llama-server", "-j", jobs],
            check=True, stdout=subprocess.DEVNULL,
        )  # fmt: skip
