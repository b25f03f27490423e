"""W1 to W4: the whole house beside a plain Celery canvas, interleaved on the same machine (`make bench`)."""
