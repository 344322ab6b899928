"""``python -m promptvit``."""

from promptvit.cli import main

if __name__ == "__main__":
    main()
