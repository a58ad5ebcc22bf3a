"""``python -m ioaccel.cli``: the command line where no console script is installed."""

from ioaccel.cli import main

main()
