"""The Python API: every verb of the command line on modules, pipelines and folders, with typed results."""
