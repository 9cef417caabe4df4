"""Ways to reach somebody's implementation: an object in this process, a command behind a pipe, a folder of files.

Each is a :class:`~refquant.conformance.backends.session.Backend`: it says which operations it has, and answers question after question.
Read `session` (what a question is, what can go wrong), `protocol` (the lines of a pipe and a folder), then `python`, `pipe`, `files`.
"""
