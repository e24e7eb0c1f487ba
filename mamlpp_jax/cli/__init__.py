"""The command lines: flags, and what each command does."""
