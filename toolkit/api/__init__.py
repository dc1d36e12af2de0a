"""The Python API: everything of the command line on modules, pipelines and folders, with typed results."""
