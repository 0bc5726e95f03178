"""`python -m mirror.cli` is `mirror`."""

from mirror.cli.main import main

main()
