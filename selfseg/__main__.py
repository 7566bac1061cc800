"""`python -m selfseg`."""

from selfseg.cli.main import main

if __name__ == "__main__":
    main()
