"""The commands of `keras-greedy`; their options are in `keras_greedy_cli`."""
