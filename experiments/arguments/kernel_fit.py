"""The arguments of `parplan hardware fit-kernels`, apart from what is slow to import."""

import argparse
from pathlib import Path


def add_fit_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `parplan hardware fit-kernels`."""
    parser.add_argument(
        "--data", type=Path, help="measurements, JSON lines (default: the shipped ones)"
    )
    parser.add_argument(
        "--write", type=Path, metavar="FILE", help="write the constants to this TOML file"
    )
    parser.add_argument(
        "--memory-data",
        type=Path,
        metavar="FILE",
        help="measurements of kernels bound by memory, JSON lines (default: the shipped ones)",
    )
    parser.add_argument(
        "--write-memory",
        type=Path,
        metavar="FILE",
        help="write the constants of kernels bound by memory to this TOML file",
    )
    parser.add_argument("--plot", type=Path, metavar="FILE", help="write a figure to this PNG file")
