"""Where tasks run besides this process. Loading this loads no engine."""
