"""
The dashboard on the admin listener: pages made here, a style sheet and a script of ours, and nothing from elsewhere.

What they show of the past is collected from the start (``history``); templates and jinja2 are loaded when somebody opens
the first page.
"""
