"""`python -m bench` is the `slicebench` command."""

from bench.cli import main

main()
