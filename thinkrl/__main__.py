"""`python -m thinkrl`: the same as the `thinkrl` script."""

from thinkrl.cli.app import main

if __name__ == "__main__":
    main()
