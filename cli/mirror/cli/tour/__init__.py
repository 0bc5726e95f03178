"""What `make demo` shows: an ordinary web application, run outside of a pod as if it ran inside.

`app` is that application; it knows nothing of mirror. `__main__` runs it under `mirror exec -t demo`, twice, and
says what happens.
"""
