"""``python -m ardmzip``."""

from ardmzip.cli import main

if __name__ == "__main__":
    main()
