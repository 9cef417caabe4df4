"""``python -m refquant`` is the command ``refquant``."""

from refquant.cli import main

if __name__ == "__main__":
    main()
