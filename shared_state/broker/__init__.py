"""The broker's edge: the Celery application, publishing, and consuming that no bytes on a queue can hurt."""
