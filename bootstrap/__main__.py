"""What `./owled` calls, with any Python 3.8 or newer; see command.py. Needs the standard library only."""

from command import main

main()
