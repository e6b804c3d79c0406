"""Exit codes of every command; their meaning is in `main`."""

EXIT_COMPLETED, EXIT_FAILED, EXIT_INPUT, EXIT_STOPPED, EXIT_KILLED = 0, 1, 2, 3, 130
EXIT_BUG = 70  # as sysexits.h has it
