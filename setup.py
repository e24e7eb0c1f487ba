"""Packaging of mamlpp_jax; tools are configured in pyproject.toml."""

import runpy
from pathlib import Path

from setuptools import find_packages, setup

# Prepared TFDS directories, one of several sources of data.
TFDS = [
    "array_record>=0.8",
    "importlib_resources>=6.0",  # tensorflow-datasets imports it without declaring it
    "tensorflow-datasets>=4.9.10",
]

setup(
    name="mamlpp_jax",
    version=runpy.run_path("mamlpp_jax/_version.py")["__version__"],
    description="MAML++ and every ablation of it, as pure JAX/Flax functions",
    long_description=Path("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
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
        "tfds": TFDS,
        "tpu": ["jax[tpu]>=0.10"],
        "test": [
            "equinox>=0.11",  # a backbone of experiments/examples
            *TFDS,
            "flatbuffers>=24",
            "hypothesis>=6.100",
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
