"""``python -m bertwright``: the command line."""

from bertwright.parent import end_with_launcher

end_with_launcher()  # first of all: what follows loads torch, which takes seconds

from bertwright.cli import main  # noqa: E402

if __name__ == "__main__":
    main()
