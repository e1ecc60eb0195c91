"""`python -m keras_greedy` is `keras-greedy`."""

import sys

from keras_greedy_cli import main

if __name__ == "__main__":
    sys.exit(main())
