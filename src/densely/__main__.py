"""`python -m densely`: the same as the `densely` command."""

from densely.cli import main

main()
