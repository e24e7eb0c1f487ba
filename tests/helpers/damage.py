"""Damages to the files of a saved checkpoint."""

import shutil


def _largest_file(checkpoint):
    return max(checkpoint.rglob("d/*"), key=lambda path: path.stat().st_size)


def flip_a_bit(checkpoint):
    """In the middle of its largest array file."""
    path = _largest_file(checkpoint)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def truncate(checkpoint):
    """Takes the last bytes off its largest array file."""
    path = _largest_file(checkpoint)
    path.write_bytes(path.read_bytes()[:-7])


DAMAGES = {
    "bit": flip_a_bit,
    "truncated": truncate,
    "file missing": lambda folder: _largest_file(folder).unlink(),
    "item missing": lambda folder: shutil.rmtree(folder / "state"),
    "metadata": lambda folder: (folder / "state" / "_METADATA").write_text("{"),
    "accuracy": lambda folder: (folder / "metrics" / "metrics").write_text('{"val_accuracy": 1}'),
    "accuracy is no JSON": lambda folder: (folder / "metrics" / "metrics").write_text("{"),
    "accuracy is missing": lambda folder: (folder / "metrics" / "metrics").write_text("{}"),
    "no manifest": lambda folder: (folder / "sha256.json").unlink(),
    "manifest is no JSON": lambda folder: (folder / "sha256.json").write_text("{"),
    "manifest is a list": lambda folder: (folder / "sha256.json").write_text("[]"),
}


def contents(folder):
    """Every path below a folder with its content, its kind and when it was last written, to compare later."""
    return {
        str(path.relative_to(folder)): (
            path.stat().st_mode,
            path.stat().st_mtime_ns,
            path.read_bytes() if path.is_file() else None,
        )
        for path in sorted(folder.rglob("*"))
    }
