"""The composition root: the only place where everything is wired. Config, listeners, `serve`, `doctor`."""
