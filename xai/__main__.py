"""``python -m xai`` is the command ``xai``."""

from xai.cli import main

if __name__ == "__main__":
    main()
