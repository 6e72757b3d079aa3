"""`python -m fxray` is the command line `fxray`."""

from fxray.cli import main

if __name__ == "__main__":
    main()
