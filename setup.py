"""Builds the C core and its Cython modules. Everything else is in pyproject.toml.

csrc/*.c is compiled once, into a static library that every module under ioaccel/_core links; the
linker takes from it what that module calls. What is generated (C, objects, the library) lies under
build/, never beside the sources.

    pip install .                                  a user's build; no flag to set
    pip install --no-build-isolation -e .          once, to work on ioaccel
    python setup.py build_ext --inplace            then, after a change: builds what changed

IOACCEL_BUILD picks another kind of build, for developers. Each has a folder of its own under build/.

    debug      no optimisation, assertions on
    asan       AddressSanitizer and UndefinedBehaviorSanitizer; load it with `make asan`
    coverage   gcov counters: run the tests, then gcov or gcovr on build/coverage
    werror     release flags, and a warning in csrc is an error
"""

import os
import sys
from collections.abc import Iterator
from glob import glob

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_clib import build_clib
from setuptools.command.build_ext import build_ext

MODE = os.environ.get("IOACCEL_BUILD", "release")

# No -march: a wheel runs on every CPU of its architecture. Code for a newer instruction set is a
# function with __attribute__((target)), chosen at run time.
COMMON = ["-std=gnu11", "-fvisibility=hidden", "-pthread"]
SANITIZE = ["-fsanitize=address,undefined"]
COMPILE = {
    "release": ["-O3"],
    "debug": ["-O0", "-g3", "-UNDEBUG"],
    "asan": ["-O1", "-g", "-UNDEBUG", "-fno-omit-frame-pointer", *SANITIZE],
    "coverage": ["-O0", "-g", "-UNDEBUG", "--coverage"],
    "werror": ["-O3"],
}
LINK = {"asan": SANITIZE, "coverage": ["--coverage"]}
if MODE not in COMPILE:
    raise SystemExit(f"IOACCEL_BUILD={MODE}: not one of {', '.join(COMPILE)}")

# Cython's output is full of unused code, so only csrc is held to this.
WARNINGS = ["-Wall", "-Wextra"] + (["-Werror"] if MODE == "werror" else [])

CORE_SOURCES = sorted(glob("csrc/*.c"))
CORE_HEADERS = sorted(glob("csrc/*.h"))
CFLAGS = COMMON + COMPILE[MODE]
# Cython's output is calls of Python's C API and of csrc: -O3 would only take longer, and debug symbols
# nobody needs in a release.
MODULE_CFLAGS = [*CFLAGS, *(["-O2", "-g0"] if MODE == "release" else [])]


DIRECTIVES = {
    "language_level": 3,
    "boundscheck": False,
    "wraparound": False,
    "embedsignature": True,
    "autotestdict": False,  # no __test__ in modules: there are no doctests in them
}

BUILD = f"build/{MODE}"
IN_PLACE = f"{BUILD}/in-place-{sys.implementation.cache_tag}"


class BuildCore(build_clib):
    """The static library of csrc."""

    def initialize_options(self) -> None:
        super().initialize_options()
        self.build_temp = self.build_clib = f"{BUILD}/core"

    def build_libraries(self, libraries: list[tuple[str, dict[str, object]]]) -> None:
        # ar adds and replaces members but drops none: without this, the object of a file that was
        # renamed would stay in the library and might be the one that is linked.
        for name in self.get_library_names():
            archive = self.compiler.library_filename(name, output_dir=self.build_clib)
            if os.path.exists(archive):
                os.unlink(archive)
        super().build_libraries(libraries)


class BuildModules(build_ext):
    """The Cython modules, after the library that they link."""

    def finalize_options(self) -> None:
        if self.inplace or self.editable_mode:
            # `pip install -e` would build in a temporary folder, and build_ext then all over again.
            self.build_lib = self.build_temp = IN_PLACE
        super().finalize_options()
        if self.parallel is None:
            self.parallel = os.cpu_count() or 1

    def run(self) -> None:
        self.run_command("build_clib")  # `build` does so itself; `build_ext` alone does not
        super().run()

    def build_extensions(self) -> None:
        # Cython in one thread, which it is made for; the C compiler then runs in `parallel` of them.
        for extension in self.extensions:
            (made,) = cythonize(
                extension,
                force=self.force,
                quiet=not self.verbose,
                build_dir=self.build_temp,
                compiler_directives=DIRECTIVES,
                include_path=extension.include_dirs,
            )
            extension.sources = made.sources
        super().build_extensions()


def modules() -> Iterator[Extension]:
    for source in sorted(glob("ioaccel/_core/*.pyx")):
        yield Extension(
            source.removesuffix(".pyx").replace("/", "."),
            [source],
            include_dirs=["csrc"],
            depends=["setup.py", *CORE_SOURCES, *CORE_HEADERS, *sorted(glob("ioaccel/_core/*.pxd"))],
            extra_compile_args=MODULE_CFLAGS,
            extra_link_args=["-pthread", *LINK.get(MODE, [])],
        )


setup(
    cmdclass={"build_clib": BuildCore, "build_ext": BuildModules},
    ext_modules=list(modules()),
    libraries=[
        (
            "ioaccel",
            {
                "sources": CORE_SOURCES,
                "include_dirs": ["csrc"],
                "cflags": CFLAGS + WARNINGS,
                "obj_deps": {"": ["setup.py", *CORE_HEADERS]},
            },
        )
    ],
    options={"build": {"build_base": BUILD}},
)
