"""``python -m bertwright``: the command line."""

from bertwright.cli import main

if __name__ == "__main__":
    main()
