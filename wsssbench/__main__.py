"""`python -m wsssbench`: the same as the installed command, but always this checkout's code."""

from wsssbench.cli import main

main()
