"""How fast the data plane is, compared with what everybody writes first; see README.md beside this file."""
