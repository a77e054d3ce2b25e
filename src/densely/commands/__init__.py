"""A file a command: what it takes, what it calls, what it prints (`options`, `terminal`: what several share).

Each loads what it needs when it is called, and names mistyped things before that: `densely --help` stays quick.
"""
