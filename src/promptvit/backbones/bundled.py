"""Backbones that ship in the package: test fixtures and the demo's; folders in timm's hub layout under ``weights/``."""

from pathlib import Path

_WEIGHTS = Path(__file__).parent / "weights"


def names() -> list[str]:
    """Names of the bundled backbones."""
    return sorted(path.name for path in _WEIGHTS.iterdir() if (path / "config.json").is_file()) if _WEIGHTS.is_dir() else []


def folder(name: str) -> Path | None:
    """Where a bundled backbone lies, or None if it is none."""
    return _WEIGHTS / name if name in names() else None
