"""Builds and installs the distributions without a network, and runs what is installed without the checkout."""

import os
import pathlib
import subprocess
import sys
import sysconfig

ROOT = pathlib.Path(__file__).parents[2]


def run(*arguments, folder, timeout=300, **environment):
    """Runs Python in a folder; returns what it printed."""
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=folder,
        env={**os.environ, "JAX_PLATFORMS": "cpu", **environment},
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def build_wheel(source, folder):
    """Builds a wheel of a folder or an sdist without a network."""
    options = ["--quiet", "--no-index", "--no-build-isolation", "--no-deps"]
    run("-m", "pip", "wheel", *options, "--wheel-dir", folder, source, folder=folder.parent)
    (wheel,) = folder.glob("*.whl")
    return wheel


def run_installed(installed, folder, *arguments, timeout=300):
    """Runs Python on the installed library and the environment's dependencies, nothing else.

    Without `site` no .pth file is read, so an editable install of the checkout is out of reach.
    """
    dependencies = dict.fromkeys(sysconfig.get_paths()[name] for name in ("purelib", "platlib"))
    path = os.pathsep.join(map(str, [installed, *dependencies]))
    return run("-P", "-S", *arguments, folder=folder, timeout=timeout, PYTHONPATH=path)
