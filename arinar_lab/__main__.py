"""`python -m arinar_lab` is the command `arinar`."""

from .cli import main

if __name__ == "__main__":
    main()
