"""`python -m gateway` is `tidegate`."""

from gateway.cli import main

main()
