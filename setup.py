"""Packaging of mamlpp_jax; tools are configured in pyproject.toml."""

import os
import re
import runpy
from pathlib import Path

from setuptools import find_packages, setup

# Prepared TFDS directories, one of several sources of data.
TFDS = [
    "array_record>=0.8",
    "importlib_resources>=6.0",  # tensorflow-datasets imports it without declaring it
    "tensorflow-datasets>=4.9.10",
]

# URL of the repository, given by the release workflow; without it links stay as they are.
REPOSITORY = os.environ.get("MAMLPP_REPOSITORY", "").rstrip("/")


def long_description() -> str:
    """README, with links that also hold outside the repository."""
    text = Path("README.md").read_text(encoding="utf-8")
    if not REPOSITORY:
        return text
    text = re.sub(r"!\[([^]]*)\]\((?!\w+:)", rf"![\1]({REPOSITORY}/raw/HEAD/", text)
    return re.sub(r"(?<!!)(\[[^]]*\])\((?!\w+:|#)", rf"\1({REPOSITORY}/blob/HEAD/", text)


def project_urls() -> dict[str, str]:
    """Links of the project."""
    pages = {
        "Source": "",
        "Documentation": "/blob/HEAD/docs/index.md",
        "Changelog": "/blob/HEAD/CHANGELOG.md",
        "Issues": "/issues",
    }
    return {name: REPOSITORY + path for name, path in pages.items()} if REPOSITORY else {}


setup(
    name="mamlpp_jax",
    version=runpy.run_path("mamlpp_jax/_version.py")["__version__"],
    description="MAML++ and every ablation of it, as pure JAX/Flax functions",
    long_description=long_description(),
    long_description_content_type="text/markdown",
    project_urls=project_urls(),
    author="The mamlpp_jax developers",
    keywords=[
        "few-shot learning",
        "meta-learning",
        "MAML",
        "MAML++",
        "JAX",
        "Flax",
        "image classification",
    ],
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3 :: Only",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
    license="MIT",
    python_requires=">=3.11",
    packages=[*find_packages(include=["mamlpp_jax", "mamlpp_jax.*"]), "mamlpp_jax.configs"],
    # The ready configurations; an editable install uses the checkout's folder (cli/config_files.py).
    package_dir={"mamlpp_jax.configs": "configs"},
    package_data={"mamlpp_jax": ["py.typed", "__init__.pyi", "pretrained/*", "pretrained/*/*"]},
    entry_points={
        "console_scripts": [
            "mamlpp = mamlpp_jax.main:main",
            "mamlpp-data = mamlpp_jax.data.__main__:main",
            "mamlpp-predict = mamlpp_jax.predict:main",
        ]
    },
    install_requires=[
        "absl-py>=2.0",
        "dm-pix>=0.4.3",  # augmentation in a supervised stage
        "flax>=0.12",
        "jax>=0.10",
        "jaxlib>=0.10",
        "lazy_loader>=0.4",
        "matplotlib>=3.9",
        "ml-collections>=1.0",
        "numpy>=2.0",
        "optax>=0.2.8",
        "orbax-checkpoint>=0.12",
        "pillow>=11.3",  # reads AVIF
        "pooch>=1.8",
        "rich>=14.1",  # nested live displays
        "safetensors>=0.5",
        "scipy>=1.14",
        "tabulate>=0.9",
        "tensorboardX>=2.6",
    ],
    extras_require={
        # experiments/: tables of runs and of the benchmark
        "experiments": ["pandas>=2.2"],
        # photographs of telephones, .heic
        "heif": ["pillow-heif>=1.0"],
        "gpu": ["jax[cuda13]>=0.10"],
        # FewShotClassifier.export
        "export": ["flatbuffers>=24"],
        # FewShotClassifier.export("file.onnx"); later versions want an Orbax older than ours
        "onnx": ["jax2onnx==0.13.0"],
        "docs": [
            "furo>=2025.7",
            "ipykernel>=6.29",
            "latex2mathml>=3.78",  # formulas without a script
            "myst-nb>=1.3",
            "pandas>=2.2",
            "sphinx>=8.2",
            "sphinx-copybutton>=0.5.2",
            "treescope>=0.1.9",
        ],
        "tfds": TFDS,
        "tpu": ["jax[tpu]>=0.10"],
        "test": [
            "beartype>=0.20",  # tests/shapes_test.py
            "check-jsonschema>=0.30",  # of .github
            "equinox>=0.11",  # a backbone of experiments/examples
            *TFDS,
            "flatbuffers>=24",
            "hypothesis>=6.100",
            "jaxtyping>=0.3",  # shapes in annotations, which nothing imports at run time
            "mypy>=1.15",
            "optuna>=4.0",  # a recipe of experiments/examples
            "pandas>=2.2",
            "pytest>=8.3,<9.2",  # xdist 3.8 does not see its groups in the node ids of 9.2
            "pytest-xdist>=3.6",
            "ruff>=0.12",
            "scikit-learn>=1.6",  # FewShotClassifier is an estimator of it
            # tests/packaging builds the package offline.
            "setuptools>=77",
        ],
    },
)
