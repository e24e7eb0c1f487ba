"""Prepared TFDS directories: versions, encoded examples and errors."""

import io
import sys

import pytest
from PIL import Image

from mamlpp_jax.data.readers import tfds_tools
from mamlpp_jax.errors import DataError
from tests.helpers import small_sources


def test_the_newest_complete_version_is_found(tmp_path):
    assert tfds_tools.latest_version(tmp_path) is None
    for version in ("1.9.0", "1.10.0", "1.2.3"):
        (tmp_path / version).mkdir()
        (tmp_path / version / tfds_tools.INFO_FILE).touch()
    (tmp_path / "2.0.0").mkdir()  # without its info file, which is written last
    assert tfds_tools.latest_version(tmp_path) == tmp_path / "1.10.0"


def test_examples_are_read_encoded_and_located(tmp_path):
    root = small_sources.small_tfds(tmp_path, classes=2)
    tfds = tfds_tools.import_tfds("x")
    builder = tfds.builder_from_directory(root / "small_shapes" / "1.0.0")
    found = list(tfds_tools.encoded_examples(builder, "photo", ("train", "test")))
    assert len(found) == 3 + 4 + 1 + 2
    assert [origin.rsplit(":")[-1] for origin, _ in found[6:8]] == ["train[6]", "test[0]"]
    for _, example in found:
        assert Image.open(io.BytesIO(example["photo"])).size == (16, 18)


def test_errors_of_tfds_name_the_folder(tmp_path):
    with (
        pytest.raises(DataError, match=rf"{tmp_path} cannot be read by TFDS \(KeyError: 'x'\)"),
        tfds_tools.wrap_tfds_errors(tmp_path),
    ):
        raise KeyError("x")
    with (
        pytest.raises(DataError, match=r"^ours\.$"),
        tfds_tools.wrap_tfds_errors(tmp_path),
    ):
        raise DataError("ours.")


@pytest.mark.parametrize("module", tfds_tools.MODULES)
def test_what_is_missing_is_named_and_how_it_is_installed(monkeypatch, module):
    monkeypatch.setitem(sys.modules, module, None)
    expected = rf"Reading birds .*{module}.*pip install 'mamlpp_jax\[tfds\]'\.$"
    with pytest.raises(DataError, match=expected):
        tfds_tools.import_tfds("birds")
